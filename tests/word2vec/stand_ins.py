"""What the package uses of Ray and of Spark, in this process.

The n-th task of Ray, or job of Spark, is lost if n is in `lost`.
"""

import pickle
from functools import partial
from types import SimpleNamespace


class LostError(Exception):
    """A worker was lost."""


class Ray(SimpleNamespace):
    """The module `ray`, on machines with so many `processors`."""

    def __init__(self, lost=(), processors=(4,)):
        task_error = type("RayTaskError", (LostError,), {})
        super().__init__(tasks=0, lost=lost, processors=processors, asked=[])
        self.exceptions = SimpleNamespace(RayError=LostError, RayTaskError=task_error)

    def modules(self):
        return {"ray": self}

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(n)}} for n in self.processors]

    def is_initialized(self):
        return True

    def put(self, value):
        return value

    def get(self, value):
        for part in value:
            if isinstance(part, Exception):
                raise part
        return value

    def remote(self, *given, **options):
        def call(function, *arguments):
            for argument in arguments:
                if isinstance(argument, Exception):  # which this task needed
                    error = self.exceptions.RayTaskError(str(argument))
                    error.cause = argument
                    return error
            self.tasks += 1
            results = function(*arguments)
            if self.tasks in self.lost:
                return [LostError("a worker was killed") for _ in results]
            return results

        self.asked.append(options)
        wrap = lambda function: SimpleNamespace(remote=partial(call, function))  # noqa: E731
        return wrap(given[0]) if given else wrap


class Spark:
    """A SparkContext with these settings."""

    def __init__(self, lost=(), **settings):
        self.jobs, self.lost, self.settings = 0, lost, settings

    def modules(self):
        session = SimpleNamespace(sparkContext=self)
        builder = SimpleNamespace(getOrCreate=lambda: session)
        of_class = SimpleNamespace(builder=builder, getActiveSession=lambda: session)
        return {
            "pyspark.sql": SimpleNamespace(SparkSession=of_class),
            "pyspark.errors": SimpleNamespace(PySparkException=LostError),
            "py4j.protocol": SimpleNamespace(Py4JError=LostError),
        }

    def getConf(self):
        return {name.replace("_", "."): value for name, value in self.settings.items()}

    def broadcast(self, value):
        return Broadcast(value)

    def parallelize(self, items, number):
        assert len(items) == number
        self.jobs += 1
        return Data(items, self.jobs in self.lost)


class Broadcast:
    def __init__(self, value):
        self.value = value

    def destroy(self):
        self.value = None


class Data:
    """An RDD. Functions are copied, as for another process."""

    def __init__(self, items, is_lost):
        self.items, self.is_lost = list(items), is_lost

    def flatMap(self, function):
        function = pickle.loads(pickle.dumps(function))
        return Data([result for item in self.items for result in function(item)], self.is_lost)

    def groupByKey(self, number):
        groups = {}
        for key, value in reversed(self.items):  # they come in any order
            groups.setdefault(key, []).append(value)
        assert len(groups) == number
        return Data(groups.items(), self.is_lost)

    def map(self, function):
        function = pickle.loads(pickle.dumps(function))
        return Data(map(function, self.items), self.is_lost)

    def collect(self):
        if self.is_lost:
            raise LostError("a worker was killed\nand where")
        return self.items
