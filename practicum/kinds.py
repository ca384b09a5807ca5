"""The five kinds of claim: each maps one seed's values to one number, the statistic."""

import numpy as np

from practicum import choices
from practicum.cards import Claim

Values = dict[str, float | list[float]]


def number(values: Values, key: str) -> float:
    """Look one number up; ValueError if the key is missing or names a curve."""
    value = _look_up(values, key)
    if isinstance(value, list):
        raise ValueError(f"{key!r} is a curve, where a number is read")
    return value


def curves(values: Values, keys: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Look two curves of one length up, x and y; ValueError if they are not that."""
    x, y = (_look_up(values, key) for key in keys)
    if not isinstance(x, list) or not isinstance(y, list) or len(x) != len(y):
        raise ValueError(f"{keys[0]!r} and {keys[1]!r} are not two curves of one length")
    return np.asarray(x), np.asarray(y)


def statistic(claim: Claim, values: Values) -> float:
    """Compute the claim's statistic of one seed; ValueError if these values have none."""
    keys = claim.keys
    match claim.kind:
        case "value":
            result = number(values, keys[0])
        case "order":  # the smallest step along the keys: positive if and only if all of them ascend
            result = float(np.diff([number(values, key) for key in keys]).min())
        case "ratio":
            over, under = (number(values, key) for key in keys)
            if under == 0:
                raise ValueError(f"{keys[1]!r} is 0, and the ratio divides by it")
            result = over / under
        case "slope":
            result = log_slope(*curves(values, keys), keys)
        case "argmax":
            x, y = curves(values, keys)
            result = float(x[np.argmax(y)])
    if not np.isfinite(result):
        raise ValueError(f"the {claim.kind} of {', '.join(map(repr, keys))} is {result}")
    return result


def reference(claim: Claim, values: Values) -> float:
    """Give what the statistic should equal: the card's number, or this seed's value of the card's key."""
    equals = claim.expect.equals
    return number(values, equals) if isinstance(equals, str) else float(equals or 0)


def log_slope(x: np.ndarray, y: np.ndarray, names: list[str]) -> float:
    """Fit log y = a + slope log x by least squares; ValueError unless both are positive and x varies."""
    for curve, name in ((x, names[0]), (y, names[1])):
        if not (curve > 0).all():
            raise ValueError(f"{name!r} is not positive throughout, and the slope takes its log")
    u = np.log(x) - np.log(x).mean()
    if not u.any():
        raise ValueError(f"{names[0]!r} does not vary, and the slope is taken along it")
    return float(u @ np.log(y) / (u @ u))


def _look_up(values: Values, key: str) -> float | list[float]:
    if key not in values:
        raise ValueError(f"key {key!r} is not measured ({choices(key, values)})")
    return values[key]
