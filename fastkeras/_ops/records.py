"""Tables that a kernel gets by value, as one argument, so that nothing has to be uploaded."""

from functools import cache
from typing import NamedTuple

import numpy as np

ARRAY = "array"  # the type of a field that is a pointer


class Records(NamedTuple):
    """An argument of the type `struct { Record of[capacity]; }`.

    Attributes:
        fields: tuple of `(name, type)` as in the struct Record: a type of NumPy, a pair of that and
            a length, or ARRAY.
        columns: dict, name of a field to its values in all records, or to none, for zeros; arrays
            of the device, or None for a null pointer, if the field is an ARRAY.
        capacity: how many records there is room for.
    """

    fields: tuple
    columns: dict
    capacity: int

    def packed(self, address_of):
        """Return it as a NumPy array of one element; `address_of` gives the address of an array."""
        layout = layout_of(self.fields)
        argument = np.zeros(1, [("of", layout, (self.capacity,))])
        table = argument["of"][0]
        for name, kind in self.fields:
            values = self.columns[name]
            if kind == ARRAY:
                values = [0 if array is None else address_of(array) for array in values]
            if len(values):
                table[name][: len(values)] = values
        return argument


@cache
def layout_of(fields):
    """Return the dtype of a record, aligned as in C++."""
    types = [(n, "u8") if kind == ARRAY else (n, *np.atleast_1d(kind)) for n, kind in fields]
    return np.dtype([(n, t, (int(more[0]),)) if more else (n, t) for n, t, *more in types], True)
