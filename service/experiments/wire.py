"""The wire types of experiments, shared by the service and its client."""

from pydantic import BaseModel, ConfigDict, Field

from service.card import TaskName, VariantName
from service.experiments.declaration import Mode, State
from service.experiments.results import Results
from service.experiments.verdict import Verdict


class ArmInfo(BaseModel):
    """One arm as declared, and what runs it now."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    role: str = Field(description="`baseline` or `candidate`.")
    model: str | None = Field(description="The model that runs it; null if it cannot run.")
    version: str | None
    variant: VariantName
    weight: float = Field(description="Share of the images that it answers (`split`) or on which it runs.")


class ExperimentInfo(BaseModel):
    """An experiment: its declaration, its results, and a verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    task: TaskName
    mode: Mode
    state: State
    description: str
    margin: float = Field(description="Accepted loss of accuracy, a fraction.")
    arms: list[ArmInfo] = Field(description="Baseline, then candidate.")
    problem: str | None = Field(description="Why it cannot run; null if it can.")
    results: Results | None
    verdict: Verdict | None


class ExperimentChanged(ExperimentInfo):
    """An experiment after a change."""

    notice: str | None = Field(description="Why the comparison starts over; null if the data are kept.")


class ExperimentList(BaseModel):
    """All experiments, sorted by name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    experiments: list[ExperimentInfo]
    stored: bool = Field(description="Whether feedback and observations are kept when the process ends.")
