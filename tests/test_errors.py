"""The error tree: every class tells what happened, the limit and the remedy, and renders as RFC 9457."""

import json
import re

import pytest

from service import errors
from service.card import VARIANTS
from service.errors import JsonValue, ServiceError, error_classes

EXAMPLES: list[ServiceError] = [
    ServiceError("Something happened."),
    errors.EmptyBodyError(),
    errors.MalformedBodyError("The multipart body has no boundary."),
    errors.UploadTimeoutError(30.0),
    errors.NotAcceptableError("text/html", ["application/json", "image/png"]),
    errors.UnsupportedImageError("The content seems to be text."),
    errors.BrokenImageError("The PNG file is truncated."),
    errors.ImageTooLargeError(20_000, 20_000, 50_000_000, 65_535),
    errors.ImageTooComplexError("JPEG", "scans", 100),
    errors.BodyTooLargeError(20_000_000, 50_000_000),
    errors.TooManyImagesError(16, 17),
    errors.BadParameterError("top_k", "top_k is 0.", remedy="Send 1 or more."),
    errors.UnknownModelError("alexnet", ["bireal18-tiny100", "bireal34-tiny100"]),
    errors.NoModelError("depth"),
    errors.UnknownVariantError("fast", VARIANTS),
    errors.VariantNotServedError("resnet18-tiny100", "binary", ["full"], "bireal18-tiny100"),
    errors.OverloadedError(64, 0.3, "network"),
    errors.DeadlineExceededError(1.5),
    errors.NotReadyError("The models are being loaded."),
    errors.OpUnavailableError("The library is missing."),
    errors.ModelBrokenError("bireal18-tiny100", "the file is missing."),
    errors.CardError("bireal18-tiny100", "the field `task` is missing."),
    errors.BadOutputError("Logits that are not finite."),
    errors.SettingsError("BIREAL_PORT='x': not a number."),
    errors.UnauthorizedError("inference", sent=False),
    errors.AdminDisabledError(),
    errors.UnknownExperimentError("none", ["binary-vs-full"]),
    errors.InvalidExperimentError("Both arms are the same."),
    errors.BadTokenError("The signature does not fit."),
    errors.ExpiredTokenError(86400.0),
    errors.UnknownLabelError("There is no class 7.", remedy="Send 0 to 6."),
    errors.FeedbackConflictError(),
    errors.GroundTruthError("It is 4 x 3 and the picture 5 x 3.", remedy="Send the same size."),
    errors.FeedbackStoreError("The disk is full."),
    errors.ModelInUseError("tiny-bireal@1", ["/classify cannot answer."]),
    errors.UnknownVersionLabelError("tiny-bireal", "canary", ["stable"]),
    errors.BadTensorError("The input image has the shape [1]."),
    errors.UnsupportedEncodingError("br"),
    errors.HeadTooLargeError(65536),
    errors.HeadTimeoutError(10.0),
    errors.MalformedRequestError(),
]


def test_every_class_has_an_example_here() -> None:
    ours = {cls for cls in error_classes() if cls.__module__.startswith(f"{errors.__name__}.")}
    assert ours == {type(example) for example in EXAMPLES}


def test_codes_are_unique_and_kebab_case() -> None:
    codes = [example.code for example in EXAMPLES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.code)
def test_problem_document_is_complete(example: ServiceError) -> None:
    document = example.problem(instance="/classify", request_id="r-1")
    assert json.loads(json.dumps(document)) == document
    assert document["type"] == f"/problems/{example.code}"
    assert document["status"] == example.status
    assert 400 <= example.status < 600
    for member in ("title", "detail", "help"):
        assert str(document[member]).strip().endswith("."), f"{member} is a sentence"
    assert (document["instance"], document["request_id"]) == ("/classify", "r-1")
    assert example.detail in str(example)
    assert example.remedy in str(example)


def test_problem_leaves_out_what_is_not_known() -> None:
    assert {"instance", "request_id"}.isdisjoint(errors.EmptyBodyError().problem())


def test_extension_never_replaces_a_standard_member() -> None:
    extensions: dict[str, JsonValue] = {"status": 200, "limit": 3}
    document = ServiceError("Something happened.", extensions=extensions).problem()
    assert document["status"] == 500
    assert document["limit"] == 3


@pytest.mark.parametrize(("retry_after_s", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (7.0, "7")])
def test_retry_after_is_whole_seconds_rounded_up(retry_after_s: float, header: str) -> None:
    assert errors.OverloadedError(64, retry_after_s, "network").headers == {"Retry-After": header}


@pytest.mark.parametrize(
    ("queue", "words"),
    [("network", "network"), ("decoding", "decoded"), ("bodies", "bodies"), ("answers", "answers")],
)
def test_a_full_queue_is_named(queue: errors.QueueName, words: str) -> None:
    error = errors.OverloadedError(64, 1.0, queue)
    assert words in error.detail
    assert "64" in error.detail
    assert error.problem()["queue"] == queue


def test_messages_name_limits_and_alternatives() -> None:
    too_large = errors.ImageTooLargeError(20_000, 20_000, 50_000_000, 65_535)
    assert "20000 x 20000" in too_large.detail
    assert "50000000" in too_large.detail
    unknown = errors.UnknownModelError("alexnet", ["b", "a"])
    assert "a, b" in unknown.remedy
    refused = errors.VariantNotServedError("resnet18-tiny100", "binary", ["full"], "bireal18-tiny100")
    assert "'bireal18-tiny100'" in refused.remedy
    assert refused.problem()["counterpart"] == "bireal18-tiny100"
    assert "counterpart" not in errors.VariantNotServedError("m", "full", ["binary", "reference"]).problem()
    assert errors.UnknownModelError("alexnet").remedy.startswith("No model is available. GET /models lists")
    assert errors.UnknownModelError("x", other_task="depth").remedy.startswith("No model is available; use /depth")
    assert errors.UnknownModelError("bireal-18", ["resnet18", "bireal18"]).remedy.startswith(
        "Did you mean 'bireal18'? Ask for one of: bireal18, resnet18."
    )
    assert errors.UnknownExperimentError("binary-vs-ful", ["a", "binary-vs-full"]).remedy.startswith(
        "Did you mean 'binary-vs-full'? "
    )


def test_remedies_of_commands_do_not_ask_a_service() -> None:
    """The errors that offline commands meet: no service answers there, and no path of one helps."""
    for error in (
        errors.UnknownModelError("alexnet"),
        errors.UnknownModelError("alexnet", ["bireal18"]),
        errors.UnknownModelError("bireal50", ["bireal18"], other_task="depth"),
        errors.NoModelError("depth"),
        errors.UnknownVariantError("fast", VARIANTS),
        errors.VariantNotServedError("resnet18-tiny100", "binary", ["full"], "bireal18-tiny100"),
    ):
        assert not re.search(r"GET|(^|\s)/", error.local_remedy), error.local_remedy
        assert error.local_remedy.endswith(".")


def test_a_given_remedy_replaces_the_default() -> None:
    assert errors.UnsupportedImageError("Text.", remedy="Send a photo.").remedy == "Send a photo."
    assert errors.UnsupportedImageError("Text.").remedy == errors.UnsupportedImageError.default_remedy
