"""Declarations of experiments: their schema, and the file that contains them.

An experiment compares two arms, each a variant of a model. Its mode defines which arms run:

* `split`: each subject always gets the same arm; `weight` is the candidate's share of the subjects.
* `shadow`: the baseline answers. A sample of the images runs on the candidate afterwards, when there is room.
* `paired`: the baseline answers. A sample of the images also runs on the candidate before the answer, in random order.
"""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from service.card import Slug, TaskName, VariantName
from service.errors import InvalidExperimentError, SettingsError
from service.schemas import Mode
from service.yaml_text import parse_yaml

State = Literal["running", "paused"]
# Strict, so that `true` is not accepted as a number.
Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
Margin = Annotated[float, Field(gt=0, le=1, strict=True)]

MAX_EXPERIMENTS = 100  # names of experiments are label values of metrics


class _Strict(BaseModel):
    """Base class: immutable, and rejects unknown members, so that misspelt ones are not ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Arm(_Strict):
    """One side of an experiment."""

    variant: VariantName
    name: Slug = Field(default="", validate_default=False, description="Name of the arm; its variant by default.")
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=130,
        description="NAME or NAME@VERSION; the experiment's model by default.",
    )

    @property
    def label(self) -> str:
        """Name of the arm in answers, metrics and results."""
        return self.name or self.variant


class Declaration(_Strict):
    """Declaration of one experiment."""

    name: Slug
    task: TaskName
    mode: Mode
    baseline: Arm = Field(description="The arm to compare with; in `shadow` and `paired`, it answers all requests.")
    candidate: Arm
    model: str | None = Field(
        default=None,
        min_length=1,
        max_length=130,
        description="Requests for this model take part; by default, requests that name no model.",
    )
    state: State = "running"
    weight: Fraction = Field(default=0.5, description="`split`: the candidate's share of the subjects.")
    sample: Fraction = Field(default=1.0, description="`shadow`, `paired`: share of the images that both arms run.")
    salt: str = Field(default="", max_length=100, description="Another salt assigns the subjects anew.")
    margin: Margin = Field(
        default=0.02,
        description="Accepted loss of accuracy (for depth, of the share of points with delta < 1.25), a fraction.",
    )
    description: str = Field(default="", max_length=500)

    @model_validator(mode="after")
    def _arms_differ(self) -> Self:
        if self.baseline.label == self.candidate.label:
            raise ValueError(f"both arms are called {self.baseline.label!r}: give each arm a different name")
        if (self.baseline.model, self.baseline.variant) == (self.candidate.model, self.candidate.variant):
            raise ValueError("both arms are the same variant of the same model: there is nothing to compare")
        return self

    @property
    def without_effect(self) -> Literal["weight", "sample"] | None:
        """The member that was given although the mode ignores it, or None."""
        member: Literal["weight", "sample"] = "sample" if self.mode == "split" else "weight"
        return member if member in self.model_fields_set else None

    @property
    def arms(self) -> tuple[Arm, Arm]:
        """Baseline and candidate."""
        return self.baseline, self.candidate

    def weights(self) -> dict[str, float]:
        """Share of the images that each arm answers (`split`) or runs."""
        if self.mode == "split":
            return {self.baseline.label: 1 - self.weight, self.candidate.label: self.weight}
        return {self.baseline.label: 1.0, self.candidate.label: self.sample}

    def identity(self) -> list[object]:
        """Returns what is compared, except for the versions of the models; see `revision`."""
        arms = [[arm.label, arm.model, arm.variant] for arm in self.arms]
        return [self.task, self.mode, self.salt, self.model, arms, *([self.weight] if self.mode == "split" else [])]

    def revision(self, versions: tuple[str, str]) -> str:
        """Returns an identifier of what is compared; data of different revisions are never mixed.

        Sample, state and margin may change within a revision. A new version of a model starts another one, and so does
        another weight of a split: traffic differs between periods, so arms with different shares in each period would
        partly be compared by when they answered (Simpson's paradox).

        Args:
            versions: Versions of the baseline's and the candidate's model.
        """
        # Keep this order: `shadow` and `paired` experiments find the data of earlier versions of the service by it.
        task, mode, salt, model, *rest = self.identity()
        identity = [task, mode, salt, model, versions, *rest]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]


class Change(_Strict):
    """Changes to a running experiment; absent members stay unchanged."""

    state: State | None = None
    weight: Fraction | None = None
    sample: Fraction | None = None
    margin: Margin | None = None

    def apply(self, declaration: Declaration) -> Declaration:
        """Returns the declaration with the changes.

        Raises:
            InvalidExperimentError: There are no changes, or one of them has no effect in the experiment's mode.
        """
        split = declaration.mode == "split"
        changes = self.model_dump(exclude_none=True)
        if not changes:
            takes = f"`state`, {'`weight`' if split else '`sample`'}, `margin`"
            raise InvalidExperimentError(
                f"The body contains no change to {declaration.name!r}; nothing was changed.",
                remedy=f"Send one or more of {takes}; null leaves a member unchanged.",
            )
        for member, effective in (("weight", split), ("sample", not split)):
            if member in changes and not effective:
                other = "sample" if member == "weight" else "weight"
                raise InvalidExperimentError(
                    f"{no_effect(member, declaration)}; nothing was changed.",
                    remedy=f"Send `{other}`, which this mode uses, or PUT a declaration with another mode.",
                )
        return declaration.model_copy(update=changes)


def no_effect(member: str, declaration: Declaration) -> str:
    """Returns a clause that says that the experiment's mode ignores a member."""
    modes = "`split`" if member == "weight" else "`shadow` and `paired`"
    return f"`{member}` has no effect in mode `{declaration.mode}` of {declaration.name!r}: only {modes} use it"


class _File(_Strict):
    experiments: Annotated[list[Declaration], Field(max_length=MAX_EXPERIMENTS)]


def read_declarations(path: Path) -> list[Declaration]:
    """Reads a YAML or JSON file of declarations: `{experiments: [...]}`.

    Raises:
        SettingsError: The file cannot be read, is not valid, or contradicts itself; the message names the member.
    """
    try:
        document = parse_yaml(path.read_text(encoding="utf-8"))
        declarations = _File.model_validate(document).experiments
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(f"The experiments file {path} cannot be read: {reason}.") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is neither YAML nor JSON: {' '.join(str(error).split())}.") from error
    except ValidationError as error:
        findings = (
            f"{'.'.join(map(str, item['loc'])) or 'the document'}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise SettingsError(f"{path} is not a valid experiments file: {'; '.join(findings)}.") from error
    for declaration in declarations:
        if (member := declaration.without_effect) is not None:
            raise SettingsError(f"{path}: {no_effect(member, declaration)}.", remedy=f"Remove `{member}` from it.")
    contradiction = contradictions(declarations)
    if contradiction is not None:
        raise SettingsError(f"{path}: {contradiction}")
    return declarations


def contradictions(declarations: list[Declaration]) -> str | None:
    """Returns why some experiments cannot run at the same time, or None if they can."""
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
