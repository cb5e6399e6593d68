"""What goes wrong around the page: files that change, connections that break, browsers that go elsewhere and back."""

import json
import re
from collections.abc import Iterator

import pytest
from PIL import Image

from tests.live.service_process import LiveService, running
from tests.pictures import encode, photo
from tests.tiny_zoo import write_zoo

PNG = encode(photo(), "PNG")
#: Drops a file on the element of a selector, and returns whether the page took it; if not, the browser opens the file.
DROP = """([selector, bytes]) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([new Uint8Array(bytes)], "dropped.png", { type: "image/png" }));
  const options = { dataTransfer, bubbles: true, cancelable: true };
  const target = document.querySelector(selector);
  return ["dragover", "drop"].map((kind) => !target.dispatchEvent(new DragEvent(kind, options)));
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[LiveService]:
    """Small models, in place of the shipped ones: what is tested here is the page."""
    folder = tmp_path_factory.mktemp("tiny")
    with running(write_zoo(folder / "zoo"), folder / "service.log", "--fallback", "reference") as live:
        yield live


def choose(page, path) -> None:
    page.get_by_label("Choose a picture").set_input_files(path)
    page.locator(f"#preview[alt$='{path.name}']").wait_for()


def compare(page) -> None:
    page.get_by_role("button", name="Compare").click()
    page.wait_for_function("() => document.querySelector('#send').textContent === 'Compare'")


def test_the_picture_is_still_chosen_after_going_back(open_page, tmp_path):
    (tmp_path / "own.png").write_bytes(PNG)
    page = open_page(refused=(404,))  # the browser asks for an icon of what it shows as text
    choose(page, tmp_path / "own.png")
    page.get_by_label("How far is it?").check()
    page.get_by_role("link", name="GET /models").click()
    page.wait_for_url(re.compile("/models$"))
    page.go_back()
    page.locator("#preview[alt$='own.png']").wait_for()
    assert page.get_by_label("Focal length").is_visible()
    compare(page)
    assert page.locator("#maps").is_visible()


def test_a_file_that_changed_or_went_is_not_a_service_that_is_gone(open_page, tmp_path):
    path = tmp_path / "own.png"
    path.write_bytes(PNG)
    page = open_page(refused=("ERR_UPLOAD_FILE_CHANGED", "ERR_FILE_NOT_FOUND"))
    choose(page, path)
    path.write_bytes(PNG + b"more")
    compare(page)
    assert page.get_by_role("alert").inner_text().startswith("The picture cannot be read.")
    choose(page, path)  # the same file: the field had to forget it
    path.unlink()
    compare(page)
    assert page.get_by_role("alert").inner_text().startswith("The picture cannot be read.")
    assert page.get_by_label("Choose a picture").evaluate("field => field.files.length") == 0


def test_a_connection_that_breaks_is_told_as_one(open_page, tmp_path):
    (tmp_path / "own.png").write_bytes(PNG)
    page = open_page(refused=("ERR_INTERNET_DISCONNECTED",))
    choose(page, tmp_path / "own.png")
    page.context.set_offline(True)
    compare(page)
    assert page.get_by_role("alert").inner_text() == "The service did not answer. Is it still running?"
    page.context.set_offline(False)
    compare(page)
    assert page.locator("#answer").is_visible()


def test_a_service_that_falls_silent_is_told_within_seconds(open_page):
    """A lost connection says nothing for minutes."""
    page = open_page()
    page.route("**/readyz", lambda route: None)
    page.reload()
    said = page.get_by_text("The service does not answer.")
    said.wait_for(timeout=20_000)  # the browser itself would wait for minutes
    assert said.is_visible()


@pytest.mark.parametrize("where", ["#drop", "#endpoints"])
def test_a_picture_may_be_dropped_beside_the_field(open_page, where):
    page = open_page()
    assert page.evaluate(DROP, [where, list(PNG)]) == [True, True]
    page.locator("#answer").wait_for()
    assert page.locator("#preview").get_attribute("alt") == "The chosen picture: dropped.png"
    assert page.locator("#drop.over").count() == 0


def test_what_both_networks_saw_is_small_enough_for_phones_and_white_where_transparent(open_page, tmp_path):
    Image.new("RGBA", (2400, 1200), (0, 0, 0, 0)).save(tmp_path / "large.png")
    page = open_page()
    choose(page, tmp_path / "large.png")
    page.get_by_label("How far is it?").check()
    compare(page)
    canvas = page.locator("#maps").get_by_role("img", name="The part of the picture that both networks saw")
    width, height, *pixel = canvas.evaluate(
        """canvas => [canvas.width, canvas.height, ...canvas.getContext("2d").getImageData(9, 9, 1, 1).data]"""
    )
    assert width == 1600
    assert height < width
    assert pixel == [255, 255, 255, 255]


def test_an_error_without_a_remedy_is_told_as_it_is(open_page, tmp_path):
    (tmp_path / "own.png").write_bytes(PNG)
    page = open_page(refused=(403,))
    page.route(re.compile("/compare/"), lambda route: route.fulfill(status=403, json={"detail": "Not from here."}))
    choose(page, tmp_path / "own.png")
    compare(page)
    assert page.get_by_role("alert").inner_text() == "Not from here."


def test_classes_of_one_name_are_told_apart(open_page, tmp_path):
    """Of ImageNet's 1000 classes, two are called crane: as a label, the name would be refused."""
    (tmp_path / "own.png").write_bytes(PNG)
    page = open_page()

    def rename(route) -> None:
        found = route.fetch().json()
        for side in ("a", "b"):
            for item in found[side]["predictions"][:2]:
                item["name"] = "crane"
        route.fulfill(body=json.dumps(found), content_type="application/json")

    page.route(re.compile("/compare/"), rename)
    choose(page, tmp_path / "own.png")
    compare(page)
    cranes = page.locator("#judge").get_by_role("button", name="crane")
    assert cranes.count() >= 2
    with page.expect_request("**/feedback") as sent:
        cranes.first.click()
    assert f"({sent.value.post_data_json['label']})" in cranes.first.inner_text()
    page.get_by_text("your label is stored").wait_for()
