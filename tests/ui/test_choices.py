"""The choices of a comparison, and how its answer is found: by finger, by keyboard, and when it is out of date."""

import json
import re
from collections.abc import Iterator
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image

from tests.backends.graphs import bireal18_like
from tests.live.service_process import LiveService, running
from tests.pictures import encode
from tests.tiny_zoo import CLASSIFY_SIZE, COLOURS, write_model, write_zoo

RED = {"name": "red.png", "mimeType": "image/png", "buffer": encode(Image.new("RGB", (96, 64), "red"), "PNG")}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
NOT_COMPARED = "Not compared yet with these choices. Press Compare."
#: Whether the verdict is in view.
IN_VIEW = """() => { const { top, bottom, height } = document.querySelector("#verdict").getBoundingClientRect();
  return height > 0 && top >= 0 && bottom <= innerHeight; }"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Iterator[LiveService]:
    """A service of tiny models: fast, of unknown answers, and with two versions of the binary classifier."""
    folder = tmp_path_factory.mktemp("tiny")
    zoo = write_zoo(folder / "zoo")
    second = bireal18_like(2, size=CLASSIFY_SIZE, widths=(32, 64), blocks=1, classes=len(COLOURS))
    write_model(zoo, "tiny-bireal", second, version="2", task="classify", full="tiny-colours")
    with running(zoo, folder / "service.log", "--fallback", "reference") as live:
        yield live


def choose(page, file: dict = RED) -> None:
    page.get_by_label("Choose a picture").set_input_files([file])
    page.locator(f"#preview[alt$='{file['name']}']").wait_for()


def compare(page) -> dict[str, list[str]]:
    """Presses the button, waits for the answer, and returns the query that was sent."""
    with page.expect_request(re.compile("/compare/")) as sent:
        page.get_by_role("button", name="Compare").click()
    page.locator("#answer").wait_for()
    page.wait_for_function("() => document.querySelector('#send').textContent === 'Compare'")
    return parse_qs(urlsplit(sent.value.url).query)


@pytest.mark.parametrize("motion", ["reduce", "no-preference"])
def test_on_a_phone_the_answer_comes_into_view(open_page, tiny, motion):
    page = open_page(of=tiny, reduced_motion=motion, **PHONE)
    page.evaluate(
        """() => { const own = Element.prototype.scrollIntoView;
          Element.prototype.scrollIntoView = function (how) { window.scrolled = how; own.call(this, how); }; }"""
    )
    page.get_by_role("button", name="Coffee", exact=True).tap()
    page.locator("#answer").wait_for()
    page.wait_for_function(IN_VIEW)
    assert page.evaluate("() => window.scrolled.behavior") == ("instant" if motion == "reduce" else "smooth")
    assert page.evaluate("() => document.activeElement.dataset.sample") == "coffee"


def test_what_is_in_view_is_left_where_it_is(open_page, tiny):
    page = open_page(of=tiny, viewport={"width": 1120, "height": 1600})
    choose(page)
    compare(page)
    assert page.evaluate(IN_VIEW)
    assert page.evaluate("() => scrollY") == 0


def test_on_a_phone_a_problem_comes_into_view(open_page, tiny):
    page = open_page(of=tiny, reduced_motion="reduce", refused=(415,), **PHONE)
    choose(page, {"name": "notes.txt", "mimeType": "image/png", "buffer": b"not a picture at all"})
    page.evaluate("() => { scrollTo(0, 0); document.querySelector('#send').click(); }")
    page.get_by_role("alert").wait_for()
    page.wait_for_function(
        "() => document.querySelector('#problem').getBoundingClientRect().bottom <= innerHeight && scrollY > 0"
    )
    assert page.locator("#problem").is_visible()


def test_a_variant_is_not_compared_with_itself(open_page, tiny):
    page = open_page(of=tiny)
    left, right = page.get_by_label("left"), page.get_by_label("right")

    def disabled(select) -> list[str]:
        return select.locator("option:disabled").all_inner_texts()

    assert (disabled(left), disabled(right)) == (["full"], ["binary"])
    left.select_option("reference")
    assert (disabled(left), disabled(right)) == (["full"], ["reference"])
    right.select_option("binary")
    left.select_option("full")
    assert (disabled(left), disabled(right)) == (["binary"], ["full"])


def test_a_network_that_ran_twice_is_not_called_faster(open_page, tiny):
    """So it is where `binary` cannot run and `reference` replaces it."""
    page = open_page(of=tiny)

    def twice(route) -> None:
        found = route.fetch().json()
        route.fulfill(body=json.dumps({**found, "a": found["b"]}), content_type="application/json")

    page.route(re.compile("/compare/"), twice)
    choose(page)
    compare(page)
    assert page.locator("#verdict").inner_text() == "full: the same variant twice. Differences are noise."
    assert re.fullmatch(r"[\d.,]+ ms\s+to decode the picture, once for both", page.locator("#tiles").inner_text())


def test_an_answer_goes_when_the_choices_change(open_page, tiny):
    page = open_page(of=tiny)
    choose(page)
    assert page.get_by_text(NOT_COMPARED).is_visible()
    changes = (
        lambda: page.get_by_label("left").select_option("reference"),
        lambda: page.get_by_label("How far is it?").check(),
        lambda: page.get_by_label("Focal length").fill("80"),
        lambda: page.get_by_label("What is in it?").check(),
        lambda: page.get_by_label("Model").select_option("tiny-bireal@1"),
    )
    for change in changes:
        compare(page)
        assert page.get_by_text(NOT_COMPARED).is_hidden()
        change()
        assert page.locator("#answer").is_hidden()
        assert page.get_by_text(NOT_COMPARED).is_visible()
        assert page.locator("#said").text_content() == ""


def test_an_answer_to_former_choices_is_not_shown(open_page, tiny):
    page = open_page(of=tiny)
    choose(page)
    held = []
    page.route(re.compile("/compare/"), lambda route: held.append(route))
    page.get_by_role("button", name="Compare").click()
    for _ in range(600):
        if held:
            break
        page.wait_for_timeout(50)
    page.get_by_label("left").select_option("reference")
    held[0].continue_()
    page.get_by_text(NOT_COMPARED).wait_for()
    assert page.locator("#answer").is_hidden()
    page.unroute(re.compile("/compare/"))
    assert compare(page)["a"] == ["reference"]


def test_a_model_is_chosen_where_there_are_several(open_page, tiny):
    page = open_page(of=tiny)
    models = page.get_by_label("Model")
    models.wait_for()
    texts = models.locator("option").all_inner_texts()
    assert sorted(text.removesuffix(" (default)") for text in texts) == ["tiny-bireal@1", "tiny-bireal@2"]
    [usual] = [text.removesuffix(" (default)") for text in texts if text.endswith(" (default)")]
    [other] = {"tiny-bireal@1", "tiny-bireal@2"} - {usual}
    choose(page)
    assert "model" not in compare(page)
    assert usual in page.locator("#sides").inner_text()
    models.select_option(other)
    assert compare(page)["model"] == [other]
    assert other in page.locator("#sides").inner_text()
    page.get_by_label("How far is it?").check()
    assert models.is_hidden()
    assert "model" not in compare(page)


def test_a_focal_length_scales_the_depths(open_page, tiny):
    page = open_page(of=tiny)
    field = page.get_by_label("Focal length")
    assert field.is_hidden()
    choose(page)
    page.get_by_label("How far is it?").check()
    assert "fx" not in compare(page)
    queries = []
    page.on("request", lambda request: "fx=" in request.url and queries.append(parse_qs(urlsplit(request.url).query)))
    field.fill("123")
    assert compare(page)["fx"] == ["123"]
    assert page.get_by_text("Focal length 123 px").first.is_visible()
    with page.expect_download():
        page.get_by_role("button", name="Save the depth by binary as NumPy (.npy)").click()
    assert [query["fx"] for query in queries] == [["123"]] * 4  # figures, both maps, the file
    # What is no focal length is said at the field, before anything is sent.
    field.fill("-1")
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("button", name="Coffee", exact=True).click()  # of the other task, which has no such field
    page.locator("#answer").wait_for()
    assert len(queries) == 4


def test_the_keyboard_reads_the_maps(open_page, tiny):
    page = open_page(of=tiny)
    choose(page)
    page.get_by_label("How far is it?").check()
    compare(page)
    spoken = page.locator("#maps [role=status]")
    for name in ("Depth by binary and full", "Their differences"):
        area = page.get_by_role("application", name=name)
        area.focus()
        top = page.evaluate("() => scrollY")
        readings, marked = [], []
        for key in ("ArrowRight", "ArrowRight", "Shift+ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft"):
            page.keyboard.press(key)
            readings.append(spoken.text_content())
            marked.append(area.locator(".mark").bounding_box())
            assert re.match(r"Here: binary [\d.,]+ m, full [\d.,]+ m, [\d,]+ % apart\.", readings[-1])
        full = [float(re.search(r"full ([\d.,]+) m", text)[1].replace(",", "")) for text in readings]
        assert full[0] < full[1] <= full[2]  # a ramp from left to right; a single pixel may round away
        assert full[5] < full[4]
        assert page.evaluate("() => scrollY") == top
        assert marked[1]["x"] > marked[0]["x"]
        assert marked[3]["y"] > marked[2]["y"]
    said = spoken.text_content()
    page.get_by_role("img", name=re.compile("Where they differ")).hover(position={"x": 3, "y": 3})
    assert page.locator(".readout").inner_text() != said
    assert spoken.text_content() == said  # the pointer does not talk


def test_a_depth_verdict_says_what_is_required(open_page, tiny):
    page = open_page(of=tiny)
    choose(page)
    page.get_by_label("How far is it?").check()
    compare(page)
    assert re.search(r"within a factor of 1\.25, and 90 % are required\.$", page.locator("#verdict").inner_text())


def test_the_table_names_every_kind_of_endpoint(open_page, tiny):
    page = open_page(of=tiny)
    table = page.get_by_role("table").filter(has_text="POST /classify").inner_text()
    for path in ("POST /feedback", "GET /experiments", "GET /v2"):
        assert path in table
