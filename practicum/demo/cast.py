"""Who plays: what each made-up group programs, says and hands in, and what the graders think of it."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
R, B, S = "rahaman2019spectral", "bao2020regularized", "storkey2012isoelastic"
SEMESTER = "@semester@"  # in a program: where the semester's folder is, for who tries to read it
# how g04 renames what it takes from g02
COPIED = dict(
    Net="Model", inputs="points", generator="randomness", first="w_in", second="w_out", hidden="layer",
    output="predict", features="gradients", fit="learn", target="goal", jacobian="grads", lr="eta",
    history="curve", residual="rest", amplitude="modes", half_times="halved", ring="loop", amount="bump",
    raw_spectrum="untrained", experiment="everything", phase="shift", waves="sines", equal="flat",
    result="answer", moved="changes", shaking="noise", kernel="gram", linear="predicted", net="model",
)  # fmt: skip


@dataclass(frozen=True)
class Extension:
    """The group's own hypothesis, as claims.yml has it, and what extension.md says of it."""

    claim: dict[str, Any]
    text: str


@dataclass(frozen=True)
class Work:
    """What a group does on a paper."""

    group: str
    paper: str
    received: str  # when it hands in for the midterm, UTC
    figure: tuple[str, ...] = ()  # the keys that its figure shows
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)  # what it says against its own evidence
    reasons: dict[str, str] = field(default_factory=dict)
    deviations: tuple[str, ...] = ()
    extension: Extension | None = None

    @property
    def kit(self) -> str:
        """Its folder, from the semester's."""
        return f"kits/{self.group}/{self.paper}"

    def program(self) -> str:
        """The program of the first report: worked out as an example, the group's own, or taken from another group."""
        if (self.group, self.paper) == ("g04", R):
            text = (HERE / f"groups/g02_{R}.py").read_text(encoding="utf-8")
            return renamed(text, COPIED)
        own = HERE / f"groups/{self.group}_{self.paper}.py"
        return (own if own.is_file() else HERE / f"programs/{self.paper}.py").read_text(encoding="utf-8")

    def report(self) -> str:
        """The first report; g04 takes one of them, too, and changes a few words."""
        if (self.group, self.paper) == ("g04", R):
            text = (HERE / f"reports/g02_{R}.md").read_text(encoding="utf-8")
            return text.replace("one of us was ill", "we had little time").replace("We asked nobody.", "No mails.")
        return (HERE / f"reports/{self.group}_{self.paper}.md").read_text(encoding="utf-8")


def renamed(text: str, names: dict[str, str]) -> str:
    """Give a program's text with other names for its variables."""
    return re.sub(r"\b[A-Za-z_]+\b", lambda word: names.get(word[0], word[0]), text)


def _times(suffix: str = "") -> tuple[str, ...]:
    return tuple(f"t_{k}{suffix}" for k in (1, 2, 4, 6))


SMALL = "64 units and 1,000 steps instead of 256 and 4,000"
WORKS = [
    Work(
        "g01", R, "2027-06-02 15:12", (*_times(), *_times("_rising")),
        reasons={
            "manifold": "Faster on every seed, but by a factor from 1.3 to 11: the interval reaches below the bound.",
            "kernel-time-high": "Training needs two to three times as many steps; the features move before.",
        },
        extension=Extension(
            {"id": "X1", "hypothesis": "The more petals (2, 4, 8), the sooner frequency 6 is learned.", "kind": "order",
             "keys": ["t_6_petals_8", "t_6_petals_4", "t_6_petals_2"]},
            "The paper says that a more complex manifold makes high frequencies easier. If it is the number of petals "
            "that counts, eight should be better than four. They are not: four petals are nearest to the frequency "
            "that is to be learned. The evidence speaks against our hypothesis.",
        ),
    ),
    Work(
        "g01", B, "2027-06-02 15:40",
        ("misalign_plain_1000", "misalign_l2_1000", "misalign_l2_10000", "misalign_nested_1000", "misalign_rag_1000"),
        reasons={"slow": "The mean is far above ten, but so scattered over seeds that the interval reaches below."},
        extension=Extension(
            {"id": "X1", "hypothesis": "Momentum 0.9 at a third of the rate brings l2 closer to the axes by a tenth.",
             "kind": "ratio", "keys": ["misalign_l2_momentum", "misalign_l2"], "expect": {"at_most": 0.9}},
            "Momentum helps along flat directions, and the rotations are flat. After 1,000 steps it does help, and "
            "remains two orders of magnitude behind the rotation, which does not need the curvature.",
        ),
    ),
    Work(
        "g02", R, "2027-06-07 21:05", _times(),
        reasons={
            "manifold": "With 64 units the seeds scatter, and the interval reaches below the bound.",
            "kernel-time-high": "At 64 units the features move long before frequency 6 is learned; see the report.",
        },
        deviations=(SMALL,),
        extension=Extension(
            {"id": "X1", "hypothesis": "Sixteen times the width makes the kernel's error for frequency 4 smaller.",
             "kind": "order", "keys": ["off_256", "off_16"]},
            "If the kernel misses our times because our network is narrow, it should miss them less with 256 units "
            "than with 16. On average it does; single networks of 16 units can be right by luck.",
        ),
    ),
    Work(
        "g02", S, "2027-06-08 19:48", ("loss_log", "loss_iso", "loss_log_tempered", "loss_iso_tempered"),
        reasons={
            "iso-loss-tempered": "With eight trees the gain stays after tempering: they are not only underconfident.",
            "iso-error": "The isoelastic market errs more often on three of our five seeds.",
        },
        deviations=("8 trees instead of 20 mixed agents", "200 market digits, 300 to test"),
        extension=Extension(
            {"id": "X1", "hypothesis": "With few trees η = 20 has a lower loss than η = 2.", "kind": "order",
             "keys": ["loss_20", "loss_2"]},
            "Eight trees veto each other rarely, so a nearly geometric pool costs little and sharpens much. The larger "
            "η is better on all seeds.",
        ),
    ),
    Work(
        "g03", S, "2027-06-06 05:30", ("loss_log", "loss_iso", "loss_single", "loss_market"),
        reasons={
            "iso-error": "The errors differ by a few digits of 697, in either direction.",
            "forest": "The mixed market is better on average, and worse on two of five seeds.",
        },
        extension=Extension(
            {"id": "X1", "hypothesis": "In a drifting stream dealing out 5 % of the wealth anew lowers the loss.",
             "kind": "ratio", "keys": ["loss_shared", "loss_kept"], "expect": {"at_most": 0.95}},
            "We roll the images by a column after every 200 digits. An agent that owns everything is soon the wrong "
            "one. A tax of 5 % after each payoff keeps the others alive, and the loss is lower by a sixth.",
        ),
    ),
    Work("g03", B, "2027-06-06 05:41", tuple(f"misalign_{name}_1000" for name in ("plain", "l2", "nested", "rag"))),
    Work(
        "g04", R, "2027-06-04 23:30", _times(),
        reasons={
            "manifold": "With 64 units the seeds scatter, and the interval reaches below the bound.",
            "kernel-time-high": "At 64 units the features move long before frequency 6 is learned.",
        },
        deviations=(SMALL,),
    ),
    Work("g04", B, "2027-06-04 23:51"),
    Work(
        "g05", B, "2027-06-04 20:02",
        statuses={"ordered": {"status": "reproduced", "value": 0.999}},
    ),
    Work(
        "g05", S, "2027-06-04 20:15",
        statuses={
            "iso-loss": {"status": "reproduced", "value": 0.432},
            "beats-single": {"status": "reproduced", "value": 0.8},
        },
    ),
]
