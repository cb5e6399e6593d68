"""What an experiment is: the schema of its declaration, and the file that declares them.

An experiment compares two arms, each a variant of a model. Its mode says who runs:

* `split`: each subject is answered by one arm, always the same: `weight` is the candidate's share of the subjects.
* `shadow`: the baseline answers; a sample of the images runs on the candidate afterwards, when there is room.
* `paired`: the baseline answers; on a sample of the images the candidate runs, too, in random order, before the answer.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.card import Slug, TaskName, VariantName
from service.errors import InvalidExperimentError, SettingsError
from service.yaml_text import parse_yaml

Mode = Literal["split", "shadow", "paired"]
State = Literal["running", "paused"]
# Strict: `true` is no number.
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Margin = Annotated[float, Field(gt=0, le=1, strict=True)]

MAX_EXPERIMENTS = 100  # each is a value of metric labels


class _Strict(BaseModel):
    """Base: immutable, unknown members refused, so that a misspelt one is not lost."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Arm(_Strict):
    """One side of an experiment."""

    variant: VariantName
    name: Slug = Field(default="", validate_default=False, description="Its variant where not given.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=130,
        description="NAME or NAME@VERSION; else the experiment's.",
    )

    @property
    def label(self) -> str:
        """How answers, metrics and results call it."""
        return self.name or self.variant


class Declaration(_Strict):
    """One experiment, as it is written down."""

    name: Slug
    task: TaskName
    mode: Mode
    baseline: Arm = Field(description="What the candidate is compared with; in `shadow` and `paired` what answers.")
    candidate: Arm
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=130,
        description="Requests for this model take part; where not given, requests that name no model.",
    )
    state: State = "running"
    weight: Fraction = Field(default=0.5, description="`split`: the candidate's share of the subjects.")
    sample: Fraction = Field(default=1.0, description="`shadow`, `paired`: share of the images that both arms run.")
    salt: str = Field(default="", max_length=100, description="Another salt shuffles the subjects anew.")
    margin: Margin = Field(
        default=0.02,
        description="Loss of accuracy (delta < 1.25 for depth) up to which the candidate is good enough; a fraction.",
    )
    description: str = Field(default="", max_length=500)

    @model_validator(mode="after")
    def _arms_differ(self) -> Self:
        if self.baseline.label == self.candidate.label:
            raise ValueError(f"both arms are called {self.baseline.label!r}: give them a name each")
        if (self.baseline.model, self.baseline.variant) == (self.candidate.model, self.candidate.variant):
            raise ValueError("both arms are the same variant of the same model: there is nothing to compare")
        return self

    @property
    def without_effect(self) -> Literal["weight", "sample"] | None:
        """The member that was given and that its mode does not look at; None where there is none."""
        member: Literal["weight", "sample"] = "sample" if self.mode == "split" else "weight"
        return member if member in self.model_fields_set else None

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """Baseline and candidate."""
        return self.baseline, self.candidate

    def weights(self) -> dict[str, float]:
        """Each arm's share of the images: those it answers (`split`), or those that it runs."""
        if self.mode == "split":
            return {self.baseline.label: 1 - self.weight, self.candidate.label: self.weight}
        return {self.baseline.label: 1.0, self.candidate.label: self.sample}

    def identity(self) -> list[object]:
        """What is compared, but for the versions of the models: see `revision`."""
        arms = [[arm.label, arm.model, arm.variant] for arm in self.arms]
        return [self.task, self.mode, self.salt, self.model, arms, *([self.weight] if self.mode == "split" else [])]

    def revision(self, versions: tuple[str, str]) -> str:
        """Names what is compared: data of different revisions are never mixed.

        Sample, state and margin may change within one; a model's new version starts another, as does the weight of a
        split: who is asked changes from one period to the next, and arms with other shares of each period would be
        compared by when they answered (Simpson's paradox).

        Args:
            versions: Of the baseline's and the candidate's model.
        """
        # in this order, so that a `shadow` or `paired` experiment finds what earlier versions of the service kept
        task, mode, salt, model, *rest = self.identity()
        identity = [task, mode, salt, model, versions, *rest]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


class Change(_Strict):
    """What may be changed of an experiment while it goes on; members that are absent stay as they are."""

    state: State | None = None
    weight: Fraction | None = None
    sample: Fraction | None = None
    margin: Margin | None = None

    def apply(self, declaration: Declaration) -> Declaration:
        """The declaration with the changes.

        Raises:
            InvalidExperimentError: There are none, or one of them has no effect in the experiment's mode.
        """
        split = declaration.mode == "split"
        changes = self.model_dump(exclude_none=True)
        if not changes:
            takes = f"`state`, {'`weight`' if split else '`sample`'}, `margin`"
            raise InvalidExperimentError(
                f"The body names nothing to change of {declaration.name!r}; nothing was changed.",
                remedy=f"Send one or more of {takes}; null leaves a member as it is.",
            )
        for member, effective in (("weight", split), ("sample", not split)):
            if member in changes and not effective:
                other = "sample" if member == "weight" else "weight"
                raise InvalidExperimentError(
                    f"{no_effect(member, declaration)}; nothing was changed.",
                    remedy=f"Send `{other}`, which is this mode's, or PUT a declaration with another mode.",
                )
        return declaration.model_copy(update=changes)


def no_effect(member: str, declaration: Declaration) -> str:
    """Says of a member that the experiment's mode does not look at it: half a sentence."""
    modes = "`split`" if member == "weight" else "`shadow` and `paired`"
    return f"`{member}` has no effect in mode `{declaration.mode}` of {declaration.name!r}: it is for {modes} only"


class _File(_Strict):
    experiments: Annotated[list[Declaration], Field(max_length=MAX_EXPERIMENTS)]


def read_declarations(path: Path) -> list[Declaration]:
    """Reads a file of declarations, YAML or JSON: `{experiments: [...]}`.

    Raises:
        SettingsError: It cannot be read, is not valid, or contradicts itself; the message names the member.
    """
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
        declarations = _File.model_validate(document).experiments
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"The file of experiments {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        findings = (
            f"{'.'.join(map(str, item['loc'])) or 'the document'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise SettingsError(f"{path} does not declare experiments: {'; '.join(findings)}.") from error
    for declaration in declarations:
        if (member := declaration.without_effect) is not None:
            raise SettingsError(f"{path}: {no_effect(member, declaration)}.", remedy=f"Take `{member}` out of it.")
    contradiction = contradictions(declarations)
    if contradiction is not None:
        raise SettingsError(f"{path}: {contradiction}")
    return declarations


def contradictions(declarations: list[Declaration]) -> str | None:
    """Says why some experiments cannot run beside each other; None where they can."""
    names = [declaration.name for declaration in declarations]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        return f"the experiment {twice!r} is declared twice."
    running: dict[tuple[str, str | None], str] = {}
    for declaration in declarations:
        if declaration.state == "running":
            other = running.setdefault((declaration.task, declaration.model), declaration.name)
            if other != declaration.name:
                which = declaration.model or "no model by name"
                return (
                    f"{other!r} and {declaration.name!r} both run on the requests to /{declaration.task} for {which}: "
                    "pause one of them."
                )
    return None
