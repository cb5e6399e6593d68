"""What a person does with the page, in a real Chromium against the real service with the shipped models."""

import re
from importlib import resources
from pathlib import Path

import pytest

from tests.pictures import encode, photo

COLOURS = ("light", "dark")
WIDTHS = (360, 1120)
LADYBIRD = {
    "name": "a-ladybird.jpg",
    "mimeType": "image/jpeg",
    "buffer": resources.files("service.ui").joinpath("sample-ladybird.jpg").read_bytes(),
}
CHECKS = Path(__file__).with_name("accessibility.js").read_text().partition("\n")[2].strip()


def compare(page, sample: str) -> None:
    page.get_by_role("button", name=sample, exact=True).click()
    page.get_by_role("heading", level=2, name=re.compile("binary")).wait_for()


def compare_own(page, file: dict) -> None:
    page.get_by_label("Choose a picture").set_input_files([file])
    page.locator(f"#preview[alt$='{file['name']}']").wait_for()
    page.get_by_role("button", name="Compare").click()
    page.locator("#answer").wait_for()


def check_accessible(page) -> None:
    assert page.evaluate(f"{CHECKS}.faults()") == []
    contrasts = page.evaluate(f"{CHECKS}.contrasts()")
    assert len(contrasts) > 20
    assert [found for found in contrasts if found[0] < 4.5] == []


@pytest.mark.parametrize("scheme", COLOURS)
def test_classes_side_by_side(open_page, scheme):
    page = open_page(color_scheme=scheme)
    compare(page, "Coffee")
    assert page.get_by_role("heading", level=2, name="binary and full both say espresso.").is_visible()
    for variant in ("binary", "full"):
        article = page.locator("#sides article").filter(has=page.get_by_role("heading", name=variant))
        rows = article.get_by_role("row")
        assert rows.count() == 5
        shares = [float(text.split()[0]) for text in rows.locator(".value").all_inner_texts()]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 100.3
        widths = [box["width"] for box in (bar.bounding_box() for bar in rows.locator(".bar i").all())]
        assert widths[0] > 10 * widths[-1]  # the bars say what the figures say
    tiles = page.locator("#tiles li").all_inner_texts()
    assert [re.split(r"\s", text)[0][-1] for text in tiles[:3]] == ["x"] * 3
    bars = page.locator("#bars table")
    assert bars.count() == 4
    assert bars.locator("caption").all_inner_texts()[:3] == ["Inference, one run", "Weights in memory", "File"]
    assert "n = 2500" in bars.nth(3).inner_text()
    check_accessible(page)


@pytest.mark.parametrize("scheme", COLOURS)
def test_depth_maps_with_divider_and_difference(open_page, scheme):
    page = open_page(color_scheme=scheme)
    compare(page, "Street")
    maps = page.locator("#maps")
    assert maps.locator("canvas[role=img]").count() == 6  # picture, two maps, difference, two scales
    divider = page.get_by_role("slider", name=re.compile("Divider"))
    top = maps.get_by_role("img", name="Depth by full")
    before = top.evaluate("canvas => getComputedStyle(canvas).clipPath")
    divider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert divider.input_value() == "60"
    assert divider.get_attribute("aria-valuetext") == "60 % binary"
    after = top.evaluate("canvas => getComputedStyle(canvas).clipPath")
    assert before != after
    assert "60%" in after
    # The ground is nearer at the bottom of the picture than at the horizon: brighter, in both maps.
    for variant in ("binary", "full"):
        near, far = maps.get_by_role("img", name=f"Depth by {variant}").evaluate(
            """canvas => { const { width, height } = canvas;
              const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
              return [0.95, 0.5].map((y) => { const at = 4 * (Math.floor(y * height) * width + width / 2);
                return data[at] + data[at + 1] + data[at + 2]; }); }"""
        )
        assert near > far + 100
    ticks = maps.locator(".ticks span").all_inner_texts()
    assert len(ticks) >= 3
    metres = [float(re.fullmatch(r"([\d.,]+) m", tick)[1].replace(",", "")) for tick in ticks]
    assert metres == sorted(metres)
    for name, start in (("Points (.ply)", b"ply\n"), ("16-bit PNG", b"\x89PNG"), ("NumPy (.npy)", b"\x93NUMPY")):
        with page.expect_download() as download:
            maps.get_by_role("button", name=f"Save the depth by binary as {name}").click()
        assert download.value.suggested_filename.startswith("depth-binary.")
        assert Path(download.value.path()).read_bytes().startswith(start)
    maps.get_by_role("img", name=re.compile("Where they differ")).hover()
    assert re.search(r"Here: binary [\d.,]+ m, full [\d.,]+ m, \d+ % apart", maps.inner_text())
    check_accessible(page)


def test_a_picture_of_ones_own_by_choosing_and_by_dropping(open_page):
    page = open_page()
    file = {"name": "cat.png", "mimeType": "image/png", "buffer": encode(photo(), "PNG")}
    page.get_by_label("Choose a picture").set_input_files([file])
    page.get_by_role("button", name="Compare").click()
    page.locator("#answer").wait_for()
    first = page.locator("#sides").inner_text()
    assert page.locator("#preview").get_attribute("alt") == "The chosen picture: cat.png"
    compare(page, "Coffee")
    transfer = page.evaluate_handle(
        """async (bytes) => { const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" })); return data; }""",
        list(file["buffer"]),
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": transfer})
    page.wait_for_function("text => document.querySelector('#sides').innerText === text", arg=first)
    assert page.locator("#preview").get_attribute("alt") == "The chosen picture: dropped.png"


def test_by_keyboard_alone(open_page):
    page = open_page()
    order = []
    for _ in range(14):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("() => { const e = document.activeElement; return e.id || e.dataset.sample || e.name; }")
        )
        if order[-1] == "coffee":
            assert page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
            page.keyboard.press("Enter")
            page.locator("#answer").wait_for()
            assert page.evaluate("() => document.activeElement.dataset.sample") == "coffee"  # focus stays
        if order[-1] == "send":
            break
    assert order == ["", "picture", "coffee", "ladybird", "fence", "road", "task", "a", "b", "send"]
    page.keyboard.press("Enter")
    page.get_by_text("2 comparisons on this page, 2 of them in agreement").wait_for()


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_at_any_width(open_page, width):
    page = open_page(viewport={"width": width, "height": 800})
    for sample in ("Fence", "Street"):
        compare(page, sample)
        page.locator("#maps").wait_for(state="visible" if sample == "Street" else "hidden")
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    check_accessible(page)


def test_a_file_that_is_no_picture_is_told_in_the_services_words(open_page):
    page = open_page(refused=(415,))
    page.get_by_label("Choose a picture").set_input_files(
        [{"name": "notes.txt", "mimeType": "image/png", "buffer": b"not a picture at all"}]
    )
    page.get_by_role("button", name="Compare").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "JPEG, PNG" in alert.inner_text()
    assert page.locator("#answer").is_hidden()


def test_an_error_that_is_not_the_services_is_told_as_one(open_page):
    page = open_page(refused=(502,))
    page.route(re.compile("/compare/"), lambda route: route.fulfill(status=502, json={"message": "bad gateway"}))
    page.get_by_label("Choose a picture").set_input_files(
        [{"name": "photo.png", "mimeType": "image/png", "buffer": encode(photo(), "PNG")}]
    )
    page.get_by_role("button", name="Compare").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == "The service answered with status 502 and no message. Is there a proxy in between?"


def test_comparing_nothing_says_so(open_page):
    page = open_page()
    page.get_by_role("button", name="Compare").click()
    assert page.get_by_role("alert").inner_text() == "Choose a picture first, or one of the drawings."
    assert page.get_by_text("Nothing compared yet").is_visible()


def test_experiment_and_feedback(open_page):
    """A label given on the page counts in the running experiment, whose verdict is shown in words."""
    page = open_page(refused=(422,))
    article = page.get_by_role("article").filter(has_text="binary-in-place-of-full (running)")
    article.wait_for()
    compare_own(page, LADYBIRD)
    page.locator("#judge").get_by_role("button", name="ladybug").click()
    page.get_by_text("Thank you, your label is stored: full was right.").wait_for()
    page.wait_for_function("() => document.querySelector('#experiment-list').innerText.includes('1 labelled')")
    assert "Of 1 labelled image " in article.inner_text()
    page.get_by_label("Another class").fill("no such class")
    with page.expect_response(re.compile("feedback")) as told:
        page.locator("#judge").get_by_role("button", name="Send").click()
    assert told.value.status == 422


def test_a_label_is_of_the_picture_that_is_shown(open_page):
    """The answer goes with its picture, and so do the buttons that label it."""
    page = open_page()
    compare_own(page, LADYBIRD)
    assert page.locator("#judge").is_visible()
    file = {"name": "cat.png", "mimeType": "image/png", "buffer": encode(photo(), "PNG")}
    page.get_by_label("Choose a picture").set_input_files([file])
    page.locator("#preview[alt$='cat.png']").wait_for()
    assert page.locator("#answer").is_hidden()
    assert page.locator("#judge").is_hidden()
    page.get_by_role("button", name="Compare").click()
    page.locator("#judge").wait_for()


class Held:
    """Comparisons that wait until the test lets them go."""

    def __init__(self, page) -> None:
        self.asked = []
        self._page = page
        page.route(re.compile("/compare/"), lambda route: self.asked.append(route))

    def wait(self, count: int) -> None:
        for _ in range(300):
            if len(self.asked) == count:
                return
            self._page.wait_for_timeout(50)
        raise AssertionError(f"{len(self.asked)} comparisons were asked for")


def test_a_choice_during_a_comparison_is_compared_after_it(open_page):
    page = open_page()
    held = Held(page)
    page.get_by_role("button", name="Coffee", exact=True).click()
    held.wait(1)
    page.get_by_role("button", name="Ladybird", exact=True).click()
    page.locator("#preview[alt$='ladybird']").wait_for()
    held.asked[0].continue_()
    held.wait(2)
    assert page.locator("#answer").is_hidden()  # it would be that of the coffee
    held.asked[1].continue_()
    page.get_by_role("heading", level=2, name=re.compile("ladybug")).wait_for()
    assert page.locator("#send").inner_text() == "Compare"
    assert page.get_by_text("One run says little").is_visible()  # the coffee's is not counted


def test_a_status_that_is_never_hidden_says_what_the_page_says(open_page):
    """Screen readers announce a change of what is there already, and not reliably what is shown with its text in it."""
    page = open_page()
    held = Held(page)
    status = page.locator("main > [role=status]")
    assert status.count() == 1
    assert status.text_content() == ""
    page.get_by_role("button", name="Coffee", exact=True).click()
    held.wait(1)
    assert status.text_content() == "Comparing ..."
    held.asked[0].continue_()
    page.locator("#answer").wait_for()
    assert status.text_content() == "binary and full both say espresso."
    # Neither hidden nor in anything that is: it is in the tree that screen readers read, and nobody sees it.
    assert page.get_by_role("status").filter(has_text="both say").count() == 1
    box = status.bounding_box()
    assert box["width"] * box["height"] <= 1


def test_what_was_asked_twice_is_compared_once(open_page):
    page = open_page()
    held = Held(page)
    page.get_by_role("button", name="Coffee", exact=True).click()
    held.wait(1)
    page.locator("#send").press("Enter")
    held.asked[0].continue_()
    page.locator("#answer").wait_for()
    page.wait_for_function("() => document.querySelector('#send').textContent === 'Compare'")
    assert len(held.asked) == 1


@pytest.mark.parametrize("told", ["by comparing", "by its change"])
def test_experiments_and_feedback_come_with_the_key(locked, open_page, told):
    page = open_page(of=locked, refused=(401,))
    article = page.get_by_role("article").filter(has_text="binary-in-place-of-full (running)")
    page.get_by_label("API key of this service").wait_for()
    assert article.count() == 0
    if told == "by comparing":  # set as password managers do, without an event
        page.locator("#key").evaluate("field => { field.value = 'a-key-of-this-service'; }")
        compare_own(page, LADYBIRD)
        page.locator("#judge").wait_for()
    else:
        page.get_by_label("API key of this service").fill("a-key-of-this-service")
        page.get_by_label("API key of this service").press("Tab")
    article.wait_for()


def test_labels_of_the_drawings_do_not_count(open_page):
    """They would be accuracy on live traffic, and an alert."""
    page = open_page()
    compare(page, "Ladybird")
    page.locator("#experiments article").wait_for()
    assert page.locator("#judge").is_hidden()
    compare_own(page, LADYBIRD)
    assert page.locator("#judge").is_visible()
    compare(page, "Coffee")
    page.wait_for_function("() => document.querySelector('#verdict').textContent.includes('espresso')")
    assert page.locator("#judge").is_hidden()
