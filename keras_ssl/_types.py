"""Names of types that annotations share."""

Plane = tuple[int, int]
Rotation = tuple[tuple[int, Plane], ...]
