"""A student's maps and descriptors made to agree with a teacher's."""

from jaxtyping import Array, Float

from delf_jax import ops


def map_distance(
    student: Float[Array, "H W C"], teacher: Float[Array, "H W C"]
) -> Float[Array, ""]:
    """Mean squared difference of two maps.

    Of a teacher whose channels have mean 0 and deviation 1, a student that always says
    0 is 1 away.
    """
    return ((student - teacher) ** 2).mean()


def cosine_distance(
    student: Float[Array, " D"], teacher: Float[Array, " D"]
) -> Float[Array, ""]:
    """1 - cosine of two descriptors, 1 if either is zero."""
    return 1 - (ops.l2_normalize(student) * ops.l2_normalize(teacher)).sum()


def similarity_distance(
    student: Float[Array, " D"],
    teacher: Float[Array, " G"],
    students: Float[Array, "N D"],
    teachers: Float[Array, "N G"],
) -> Float[Array, ""]:
    """Mean squared difference of a descriptor's cosines to N others [Tung2019]."""

    def cosines(one: Array, others: Array) -> Array:
        return ops.l2_normalize(others) @ ops.l2_normalize(one)

    return ((cosines(student, students) - cosines(teacher, teachers)) ** 2).mean()
