"""Parses the PTX of one kernel into basic blocks (PTX ISA, chapters 4 and 5)."""

import re
from dataclasses import dataclass, field

STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.:]*)\s*(.*)", re.DOTALL)
OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*")
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+([\w$]+)(?:\[(\d*)\])?")
BYTES = {"b8": 1, "b16": 2, "b32": 4, "b64": 8}


@dataclass(frozen=True)
class Instruction:
    """One statement.

    Attributes:
        name: The operation, its modifiers and types as they are written: ["setp", "lt", "s32"].
        operands: As they are written; vectors and addresses with their brackets.
        guard: The predicate it depends on, if any.
        negated: Whether that must be false.
    """

    name: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None = None
    negated: bool = False


@dataclass
class Block:
    """Instructions that are run from the first to the last; the last may go elsewhere."""

    instructions: list[Instruction] = field(default_factory=list)


@dataclass(frozen=True)
class Program:
    """A kernel.

    Attributes:
        name: Of its entry.
        target: The architecture it was compiled for.
        parameters: (type, name) of each.
        blocks: Its code; each goes on with the next unless it says otherwise.
        labels: Where a label is, as an index of ``blocks``.
        order: Of each block, its place among all such that branches that part come before the block where they meet:
            reverse postorder.
        shared: Address of each variable in shared memory.
        shared_bytes: Bytes of all of them; dynamic shared memory follows, under the same addresses.
    """

    name: str
    target: str
    parameters: tuple[tuple[str, str], ...]
    blocks: tuple[Block, ...]
    labels: dict[str, int]
    order: tuple[int, ...]
    shared: dict[str, int]
    shared_bytes: int


def parse(text: str) -> Program:
    """Parses a module with one entry and no functions.

    Raises:
        ValueError: It has local memory, functions, or no entry.
    """
    text = re.sub(r"//[^\n]*", "", text)
    entry = re.search(r"\.entry\s+([\w$]+)\s*\(([^)]*)\)[^{]*\{(.*)\}", text, re.DOTALL)
    if entry is None:
        raise ValueError("there is no .entry")
    name, parameters, body = entry.groups()
    if ".local" in text or ".func" in text:
        raise ValueError(f"{name} has local memory or calls functions")
    shared, size = _shared(text)
    blocks, labels = _blocks(re.sub(r"^\s*\.[^;]*;", "", body, flags=re.MULTILINE))
    target = re.search(r"\.target\s+(\w+)", text)
    return Program(
        name=name,
        target=target[1] if target else "",
        parameters=tuple(
            (m[1], m[2]) for m in re.finditer(r"\.param\s+\.(\w+)[^,]*?([\w$]+)\s*(?:,|$)", parameters.strip())
        ),
        blocks=tuple(blocks),
        labels=labels,
        order=_order(blocks, labels),
        shared=shared,
        shared_bytes=size,
    )


def vector(operand: str) -> list[str]:
    """The parts of an operand in braces, or the operand alone."""
    return [part.strip() for part in operand.strip("{}").split(",")]


def _shared(text: str) -> tuple[dict[str, int], int]:
    places, end, dynamic = {}, 0, []
    for align, name, size in SHARED.findall(text):
        if not size:
            dynamic.append(name)
            continue
        end = -(-end // int(align)) * int(align)
        places[name] = end
        end += int(size)
    end = -(-end // 128) * 128
    return places | dict.fromkeys(dynamic, end), end


def _blocks(body: str) -> tuple[list[Block], dict[str, int]]:
    blocks, labels = [Block()], {}
    for line in re.split(r";|(?<=:)\s*\n", body.replace("{\n", "").replace("\n}", "")):
        statement = line.strip()
        while label := re.match(r"([$\w]+):(?!:)\s*", statement):
            if blocks[-1].instructions:
                blocks.append(Block())
            labels[label[1]] = len(blocks) - 1
            statement = statement[label.end() :]
        if not statement or statement in "{}":
            continue
        match = STATEMENT.fullmatch(statement)
        if match is None:
            raise ValueError(f"can't read {statement!r}")
        negated, guard, operation, rest = match.groups()
        if operation.startswith("mbarrier.try_wait") and blocks[-1].instructions:
            blocks.append(Block())  # where threads come back to that have to wait
        # LLVM's own wgmma has a predicate that is called p; all other registers' names begin with %.
        operands = tuple("%p" if o == "p" else o for o in map(str.strip, OPERAND.findall(rest)))
        blocks[-1].instructions.append(
            Instruction(tuple(re.split(r"\.|::", operation)), operands, guard, bool(negated))
        )
        if operation.split(".")[0] in ("bra", "ret", "bar", "barrier", "exit"):
            blocks.append(Block())
    return blocks, labels


def _order(blocks: list[Block], labels: dict[str, int]) -> tuple[int, ...]:
    following: list[list[int]] = []
    for i, block in enumerate(blocks):
        last = block.instructions[-1] if block.instructions else None
        ways = [i + 1] if i + 1 < len(blocks) else []
        if last is not None and last.name[0] in ("bra", "ret", "exit"):
            ways = ways if last.guard is not None else []
            ways = [*ways, labels[last.operands[0]]] if last.name[0] == "bra" else ways
        # What lies further down leaves a loop rather than stays in it, and so has to come later.
        following.append(sorted(ways))
    finished: list[int] = []
    seen = {0}
    path = [0]
    while path:
        block = path[-1]
        if following[block]:
            way = following[block].pop()
            if way not in seen:
                seen.add(way)
                path.append(way)
        else:
            finished.append(path.pop())
    place = {block: i for i, block in enumerate(reversed(finished))}
    return tuple(place.get(i, len(blocks)) for i in range(len(blocks)))
