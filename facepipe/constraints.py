"""A person's own list: lines that do not contradict each other, and what they mean for labels.

`facepipe.constraint_lines` has the lines themselves, `facepipe.obey` makes decisions agree with
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from facepipe.constraint_lines import LABEL, Kind, Said, format_lines, read_lines
from facepipe.errors import UsageError

_NAME = "name:"  # of a node that stands for a name; no face id or label looks like it


@dataclass(frozen=True, slots=True)
class Constraints:
    """Lines that do not contradict each other, each of them once."""

    lines: tuple[Said, ...] = ()

    @classmethod
    def of(cls, lines: Iterable[Said]) -> Constraints:
        """Take lines, first ones first. Raises UsageError, naming them, where they contradict."""
        once = tuple(dict.fromkeys(lines))
        _check(once, OnePerson(once))
        return cls(once)

    def added(self, lines: Iterable[Said]) -> Constraints:
        """Return this list with more lines. Raises UsageError where they contradict."""
        return Constraints.of((*self.lines, *lines))

    def without(self, lines: Iterable[Said]) -> Constraints:
        """Return this list without some lines."""
        gone = set(lines)
        return Constraints(tuple(line for line in self.lines if line not in gone))

    def of_kind(self, *kinds: Kind) -> list[Said]:
        """Return the lines of some kinds, sorted: what follows does not hang on their order."""
        return sorted(line for line in self.lines if line.kind in kinds)

    @property
    def faces(self) -> list[str]:
        """Return every face that is named, sorted."""
        return sorted({face for line in self.lines for face in line.faces})

    @property
    def labels(self) -> list[str]:
        """Return every label that is named, sorted."""
        return sorted({label for line in self.lines for label in line.labels})


def parse_constraints(data: bytes, name: str) -> Constraints:
    """Read a list from CSV; ``name`` is what messages call it.

    Raises UsageError, naming the lines, for what is no such list or contradicts itself.
    """
    return Constraints.of(read_lines(data, name))


def format_constraints(constraints: Constraints) -> bytes:
    """Return a list as the CSV file that `parse_constraints` reads."""
    return format_lines(constraints.lines)


# -- who is one person -----------------------------------------------------------------------


class OnePerson:
    """Faces, labels and names that lines say are one person, also by way of a third.

    With ``label_of_face``, a face that is to be kept is its source label's person.
    """

    def __init__(
        self,
        lines: Iterable[Said],
        label_of_face: Mapping[str, str | None] | None = None,
        *,
        names: bool = True,
    ) -> None:
        """Join what the lines say; without ``names``, faces of one name are not joined."""
        self._parent: dict[str, str] = {}
        self._links: dict[str, list[tuple[str, Said]]] = {}
        for line in lines:
            other = line.b if line.kind is Kind.SAME else ""
            if line.kind is Kind.NAME and names:
                other = _NAME + line.b
            elif line.kind is Kind.KEEP and label_of_face:
                label = label_of_face.get(line.a)
                other = "" if label is None else LABEL + label
            if other:
                self._join(line.a, other, line)

    def _join(self, one: str, other: str, line: Said) -> None:
        self._links.setdefault(one, []).append((other, line))
        self._links.setdefault(other, []).append((one, line))
        low, high = sorted((self.find(one), self.find(other)))
        self._parent[high] = low

    def find(self, node: str) -> str:
        """Return the least of what is one person with a node: itself where nothing is said."""
        root = node
        while (above := self._parent.get(root, root)) != root:
            root = above
        while (above := self._parent.get(node, node)) != node:
            self._parent[node], node = root, above
        return root

    def groups(self) -> dict[str, list[str]]:
        """Return all that was joined, by the least of each."""
        found: dict[str, list[str]] = {}
        for node in sorted(self._links):
            found.setdefault(self.find(node), []).append(node)
        return found

    def why(self, one: str, other: str) -> list[Said]:
        """Return the fewest lines that join two nodes."""
        came: dict[str, tuple[str, Said] | None] = {one: None}
        queue = [one]
        for node in queue:
            for near, line in self._links.get(node, []):
                if near not in came:
                    came[near] = (node, line)
                    queue.append(near)
        lines, node = [], other
        while (step := came.get(node)) is not None:
            node = step[0]
            lines.append(step[1])
        return lines[::-1]


def _check(lines: Iterable[Said], people: OnePerson) -> None:
    """Raise UsageError, naming the lines, where they contradict each other."""
    use: dict[str, Said] = {}
    for line in lines:
        if line.kind in (Kind.KEEP, Kind.DROP):
            before = use.setdefault(line.a, line)
            if before.kind is not line.kind:
                raise _contradiction(line, [before])
        elif line.kind is Kind.DIFFERENT and people.find(line.a) == people.find(line.b):
            raise _contradiction(line, people.why(line.a, line.b))
    for members in people.groups().values():
        names = [node for node in members if node.startswith(_NAME)]
        if len(names) > 1:
            *others, last = people.why(names[0], names[1])
            raise _contradiction(last, others)


def _contradiction(line: Said, others: Iterable[Said]) -> UsageError:
    named = "; ".join(f"{o.where or 'this run'} ({o.kind})" for o in others)
    return UsageError(
        f"{line.where or 'this run'} ({line.kind}) contradicts {named}: take one of them out, "
        "of a dataset's own list with facepipe undo DATASET FACE --said"
    )


# -- what it means for labels ----------------------------------------------------------------

LabelPairs = tuple[tuple[str, str], ...]


def label_rules(
    constraints: Constraints, label_of_face: Mapping[str, str | None]
) -> tuple[LabelPairs, LabelPairs]:
    """Return the pairs of source labels that must, and that must not, be one person.

    label_of_face: source label of the faces in ``constraints.faces``. Labels are the same
    where lines say so, also by way of faces that are to be kept. Two faces that are one
    person do not make their labels so: one of them may be under the wrong one. Labels whose
    faces are two people stay apart, since merging them would have to be undone.
    Raises UsageError, naming the lines, where keeping a face contradicts another line.
    """
    people = OnePerson(constraints.lines, label_of_face)
    _check(constraints.lines, people)
    labels_of: dict[str, list[str]] = {}
    for root, nodes in people.groups().items():
        labels_of[root] = [n.removeprefix(LABEL) for n in nodes if n.startswith(LABEL)]
    same = {(group[0], label) for group in labels_of.values() for label in group[1:]}
    different = set()
    for line in constraints.of_kind(Kind.DIFFERENT):
        one, other = (
            labels_of.get(people.find(node)) or _own_label(node, label_of_face)
            for node in (line.a, line.b)
        )
        roots = {people.find(LABEL + label) for label in one}
        different |= {
            (min(a, b), max(a, b))
            for a in one
            for b in other
            if people.find(LABEL + b) not in roots
        }
    return tuple(sorted(same)), tuple(sorted(different))


def _own_label(node: str, label_of_face: Mapping[str, str | None]) -> list[str]:
    label = node.removeprefix(LABEL) if node.startswith(LABEL) else label_of_face.get(node)
    return [] if label is None else [label]
