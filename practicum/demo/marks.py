"""What the two graders think: points and reasons for all human leaves but one."""

from practicum.demo.cast import B, R, S

GRADERS = {R: "amara", B: "tobias", S: "tobias", "": "amara"}  # who reads which paper, and hears the talks
OPEN = ("presentation.questions", ("g02", "", "03711206"))  # ill on the day: nobody has scored it
METHOD = "reproducibility.empirical.method"
LEAVES = ("reproducibility.theory", METHOD, "reproducibility.writing", "extension.experiment")
POINTS = {  # theory, method, writing, experiment
    ("g01", R): (4, 4, 4, 4), ("g01", B): (2, 4, 4, 3), ("g02", R): (3, 4, 3, 3), ("g02", S): (3, 3, 3, 3),
    ("g03", S): (4, 3, 3, 4), ("g03", B): (2, 2, 2, 0), ("g04", R): (0, 0, 0, 0), ("g04", B): (0, 0, 0, 0),
    ("g05", B): (3, 2, 2, 0), ("g05", S): (1, 0, 1, 0),
}  # fmt: skip
REASONS = {
    "reproducibility.theory": {
        4: "Derived, with the place where it fails.", 3: "Right, with its assumptions.", 2: "A step is missing.",
        1: "One sentence of the abstract.", 0: "Nothing of your own.",
    },
    METHOD: {
        4: "Deviations and controls are all discussed.", 3: "Sound; the controls could be discussed more.",
        2: "A sound setting with little analysis.", 0: "The numbers stand alone.",
    },
    "reproducibility.writing": {
        4: "I could repeat it from the report.", 3: "Clear; the figure lacks a sentence on its spread.",
        2: "Short, but it can be followed.", 1: "One has to guess.", 0: "No report of your own.",
    },
    "extension.experiment": {
        4: "A sharp hypothesis and a fair test.", 3: "A sensible variation with a clear answer.",
        0: "Nothing was handed in.",
    },
    "presentation.talk": {
        4: "Clear to someone who has not read the paper, in time.", 3: "Clear, a little long.", 2: "Understandable.",
        1: "Read from the slides.",
    },
    "presentation.questions": {
        4: "Answered beyond the own part.", 3: "Answered well.", 2: "Answered on the own part.",
        0: "Could not say what the program does.",
    },
}  # fmt: skip
OWN = {  # reasons that are no matter of points
    (METHOD, "g05", S): "Losses and errors are those of the digits that the trees have learned.",
    (METHOD, "g05", B): "Four times the seed is too large for numpy on large seeds.",
    (METHOD, "g04", R): "The program is that of another group with other names.",
    (METHOD, "g04", B): "The program types numbers in and looks for other people's files.",
    ("reproducibility.writing", "g04", R): "The report is that of another group with a few other words.",
}  # fmt: skip
TALKS = {  # talk, questions
    "03711201": (4, 4), "03711202": (4, 3), "03711203": (3, 4), "03711204": (4, 3), "03711205": (3, 3),
    "03711206": (3, 4), "03711207": (4, 4), "03711208": (3, 2), "03711209": (2, 2), "03711210": (2, 0),
    "03711211": (1, 0), "03711212": (2, 0), "03711213": (3, 2), "03711214": (3, 3), "03711215": (2, 2),
}  # fmt: skip
Scored = tuple[str, tuple[str, str, str], float, str, str]  # leaf, target, points, reason, who


def all_scores(students: dict[str, list[str]]) -> list[Scored]:
    """List the scores that are entered at the desk, in its order; `students` by group."""
    found: list[Scored] = []
    for (group, paper), points in POINTS.items():
        for leaf, n in zip(LEAVES, points, strict=True):
            reason = OWN.get((leaf, group, paper), REASONS[leaf][n])
            found.append((leaf, (group, paper, ""), n, reason, GRADERS[paper]))
    for group, team in students.items():
        for student in team:
            for leaf, n in zip(("presentation.talk", "presentation.questions"), TALKS[student], strict=True):
                if (leaf, (group, "", student)) != OPEN:
                    found.append((leaf, (group, "", student), n, REASONS[leaf][n], GRADERS[""]))
    return found
