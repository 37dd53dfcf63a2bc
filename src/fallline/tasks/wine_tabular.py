"""A small table: scikit-learn's 178 wines of three growers, by 13 measurements."""

from fallline.tasks.arrays import from_arrays
from fallline.tasks.reference import Reference
from fallline.tasks.task import Task

#: Of scikit-learn's LogisticRegression() on the same split.
LOGISTIC = 0.034836


def make_task() -> Task:
    """Return the task: an MLP 13-64-3 on 106 training, 36 validation and 36 test wines, split by class.

    The model's ``hidden`` and ``dropout`` can be searched.

    Example:
        >>> task = make_task()
        >>> [len(part[1]) for part in (task.train, task.valid, task.test)]
        [106, 36, 36]
    """
    # sklearn takes a second to import, and only the tasks on its data need it.
    from sklearn.datasets import load_wine

    rows, growers = load_wine(return_X_y=True)
    return from_arrays(
        rows, growers, valid=0.2, test=0.2, name="wine-tabular", batch_size=16, epochs=20, target=0.005,
        reference=Reference(LOGISTIC, "scikit-learn's LogisticRegression()"),
    )  # fmt: skip
