"""Verdicts: the words follow from the interval and the margin."""

from dataclasses import replace

import pytest

from service.experiments.tokens import Prediction, Target, Tokens, new_id
from service.experiments.verdict import Design, Estimates, counted, decide, verdict
from service.experiments.wire import IntervalInfo


def info(estimate, lower, upper):
    return IntervalInfo(estimate=estimate, lower=lower, upper=upper)


@pytest.mark.parametrize(
    ("lower", "upper", "conclusion"),
    [
        (0.001, 0.05, "better"),
        (-0.019, 0.05, "good_enough"),
        (-0.015, -0.001, "good_enough"),
        (-0.021, 0.05, "undecided"),
        (-0.09, -0.021, "worse"),
        (None, None, "undecided"),
    ],
)
def test_the_interval_against_the_margin(lower, upper, conclusion):
    assert decide(info(-0.01, lower, upper), 0.02) == conclusion


DESIGN = Design("binary", "full", "classify", margin=0.02)
ESTIMATES = Estimates(
    images=400,
    agreement=info(0.9, 0.87, 0.93),
    latency_ratio=info(0.25, 0.2, 0.3),
    accuracies=(info(0.7, 0.6, 0.8), info(0.71, 0.6, 0.8)),
    labelled=(100, 100),
    difference=info(-0.01, -0.015, 0.01),
    watched=True,
)
SPLIT = replace(DESIGN, split=True)
SAME = replace(DESIGN, same=True)
DEPTH = replace(DESIGN, task="depth")


def words(design=DESIGN, **changes):
    return verdict(design, replace(ESTIMATES, **changes))


def test_a_verdict_reads_as_a_sentence():
    found = words()
    assert found.summary == "Yes: binary is good enough; it loses less than 2 points of accuracy to full."
    assert found.sentences == [
        "binary and full give the same best class on 90.0 % (87.0 to 93.0) of 400 images.",
        "binary is 4.00 times as fast as full (95 % interval 3.33 to 5.00).",
        "Of 100 labelled images binary gets 70.0 % (60.0 to 80.0) right, and full 71.0 % (60.0 to 80.0).",
        "The difference is -1.0 points (95 % interval -1.5 to +1.0, valid at every look).",
    ]


def test_a_split_counts_subjects():
    found = words(SPLIT, difference=info(-0.01, -0.05, 0.03), agreement=None)
    assert found.sentences[1].startswith("Of 100 labelled images, the first of each subject, binary gets 70.0 %")
    assert "it takes labels of more than 100 subjects per arm to tell whether" in found.summary
    assert "with ground truth, the first of each subject, binary" in words(replace(DEPTH, split=True)).sentences[2]


def test_arms_of_a_split_have_their_own_numbers_of_labels():
    """One subject in twenty gets the candidate: the baseline's accuracy is not of as few images as the candidate's."""
    rare = {"difference": info(-0.01, -0.05, 0.03), "agreement": None, "labelled": (1, 19)}
    found = words(SPLIT, **rare)
    assert found.sentences[1] == (
        "Of the labelled images, the first of each subject, binary gets 70.0 % (60.0 to 80.0) of 1 right, and full "
        "71.0 % (60.0 to 80.0) of 19."
    )
    assert "labels of more than 1 subject per arm" in found.summary
    assert words(replace(DEPTH, split=True), **rare).sentences[1] == (
        "On images with ground truth, the first of each subject, binary puts 70.0 % (60.0 to 80.0) of the points "
        "within a factor of 1.25 of the truth (1 image), and full 71.0 % (60.0 to 80.0) (19 images)."
    )


def test_a_split_without_labels_knows_no_agreement():
    found = words(SPLIT, difference=None, accuracies=(None, None), agreement=None)
    assert found.conclusion == "no_labels"
    assert found.summary == "Unknown: it takes labels of both arms to compare the accuracy of binary and full."


def test_one_is_not_many():
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    undecided = {"difference": info(-0.01, -0.05, 0.03), "labelled": (1, 1)}
    assert "it takes more than 1 labelled image to tell" in words(**undecided).summary
    assert "labels of more than 1 subject per arm" in words(SPLIT, **undecided).summary


def test_a_variant_is_not_faster_than_itself():
    same = words(SAME, latency_ratio=info(0.9, 0.8, 0.95))
    assert same.summary == "binary and full are the same variant twice: differences are noise."
    assert not any("times" in sentence for sentence in same.sentences)
    assert words(SAME, images=0).summary == "There are no images to compare yet."


def test_other_verdicts():
    assert words(difference=None, accuracies=(None, None)).conclusion == "no_labels"
    assert words(images=0, agreement=None).conclusion == "no_data"
    slow = words(latency_ratio=info(2.0, 1.5, 2.5)).sentences[1]
    assert slow == "binary takes 2.00 times as long as full (95 % interval 1.50 to 2.50)."
    assert "for one look" in words(watched=False).sentences[3]
    depth = words(DEPTH).sentences
    assert "within a factor of 1.25" in depth[0]
    assert "of the points" in depth[2]
    assert "too few labels" in words(difference=info(-0.01, None, None)).sentences[3]


# --- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_says_what_was_signed_and_nothing_else_is_accepted():
    prediction = Prediction(
        id=new_id(),
        request_id="r" * 64,
        task="classify",
        target=Target("a-model-of-some-name", "1.2.3", "binary"),
        classes=(999, 998, 997, 996, 995),
        experiment=("a-name", "0123456789ab", "binary"),
        other=Target("another-model", "1", "full"),
        other_classes=(1, 2, 3, 4, 5),
        subject="0123456789abcdef",
    )
    old, new = "an-old-secret-0123456789", "a-new-secret-0123456789"
    before, between, after = (Tokens(keys, max_age_s=60) for keys in ([old], [new, old], [new]))
    token = before.sign(prediction)
    assert before.read(token) == between.read(token) == prediction
    assert between.sign(prediction).rpartition(".")[0] != token
    assert after.read(between.sign(prediction)) == prediction, "the first secret signs"
    with pytest.raises(Exception, match="signature"):
        after.read(token)
    assert len(token) < 700, "it has to fit into a header"
    assert token.isascii()
    assert " " not in token
    minimal = Prediction(id="i", request_id="r", task="depth", target=Target("m", "1", "full"), picture="0" * 32)
    assert before.read(before.sign(minimal)) == minimal


def test_without_a_secret_each_process_has_its_own(caplog):
    one, two = Tokens([], max_age_s=60), Tokens([], max_age_s=60)
    assert "BIREAL_FEEDBACK_SECRETS" in caplog.text
    token = one.sign(Prediction(id="i", request_id="r", task="depth", target=Target("m", "1", "full")))
    assert one.read(token).id == "i"
    with pytest.raises(Exception, match="signature"):
        two.read(token)


def test_a_subject_has_one_name_at_every_replica_and_another_one_in_each_experiment():
    secret = "a-secret-that-replicas-share"
    one, two = Tokens([secret], max_age_s=60), Tokens([secret, "an-old-one-0123456789"], max_age_s=60)
    name = one.pseudonym("e", "somebody")
    assert two.pseudonym("e", "somebody") == name
    stranger = Tokens(["another-secret-altogether"], max_age_s=60)
    others = one.pseudonym("f", "somebody"), one.pseudonym("e", "somebody else"), stranger.pseudonym("e", "somebody")
    assert len({name, *others}) == 4
    assert len(name) == 16


def test_ids_do_not_repeat():
    assert len({new_id() for _ in range(10_000)}) == 10_000
