"""Adding and subtracting numbers of up to three digits."""

from random import Random

from models.train.script import Script, Turn, single, typed

PLACES = ("ones", "tens", "hundreds")


def number(rng: Random) -> int:
    """A number of one to three digits, the long ones more often."""
    return rng.randrange(10 ** rng.choices([1, 2, 3], [1, 2, 4])[0])


def equation(a: int, sign: str, b: int) -> str:
    """The sum with its result."""
    return f"{a} {sign} {b} = {a + b if sign == '+' else a - b}"


def columns(a: int, sign: str, b: int) -> str:
    """The sum worked out digit by digit, as at school."""
    if sign == "-" and a < b:
        return f"{a} is less than {b}.\n{columns(b, '-', a)}\nSo {equation(a, '-', b)}"
    lines, carry = [], 0
    for place, unit in zip(PLACES, (1, 10, 100), strict=True):
        x, y = a // unit % 10, b // unit % 10
        if max(a, b) < unit and unit > 1:
            break
        if sign == "+":
            total = x + y + carry
            line = f"{place}: {x} + {y}{' + 1' * carry} = {total}"
            carry = total // 10
            lines.append(line + (", carry 1" if carry else ""))
        else:
            total = x - y - carry
            line = f"{place}: {x} - {y}{' - 1' * carry}"
            carry = int(total < 0)
            lines.append(f"{line}, borrow, {total + 10}" if carry else f"{line} = {total}")
    return "\n".join([*lines, equation(a, sign, b)])


def one_sum(rng: Random) -> Script:
    """One sum, in figures or in words."""
    a, b, sign = number(rng), number(rng), rng.choice("+-")
    result = a + b if sign == "+" else a - b
    if sign == "+":
        words = [f"Add {a} and {b}.", f"What is {a} plus {b}?", f"What is the sum of {a} and {b}?", f"Add {b} to {a}."]
    else:
        words = [
            f"Subtract {b} from {a}.",
            f"What is {a} minus {b}?",
            f"Take {b} away from {a}.",
            f"What is the difference of {a} and {b}?",
        ]
    questions = [f"What is {a} {sign} {b}?", f"{a} {sign} {b}", f"{a}{sign}{b}=", f"Calculate {a} {sign} {b}.", *words]
    turn = Turn(typed(rng, rng.choice(questions)), equation(a, sign, b), columns(a, sign, b), str(result))
    return single("arithmetic", turn, f"{a}{sign}{b}")


def many_sums(rng: Random) -> Script:
    """Several sums in one question, each held out where its own key is."""
    sums: list[tuple[int, str, int]] = []
    while len(sums) < 12:
        a, b, sign = number(rng), number(rng), rng.choice("+-")
        if not Script("arithmetic", (), f"{a}{sign}{b}").held_out:
            sums.append((a, sign, b))
        if len(sums) > 1 and rng.random() < 0.08:
            break
    listed = ", ".join(f"{a} {sign} {b}" for a, sign, b in sums)
    question = rng.choice(["Work these out: ", "Calculate: ", "Solve these: ", "Please do these sums: "]) + listed
    answer = "\n".join(equation(*each) for each in sums)
    return single("arithmetic", Turn(question, answer, "I go through them one by one.", restyled=False))
