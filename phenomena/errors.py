"""What a run can end in that is not a measurement."""


class Diverged(RuntimeError):  # noqa: N818
    """A loss, weight or output became infinite or NaN; such a run is no data point."""
