"""Stop strings across every border of pieces."""

from hypothesis import given, settings
from hypothesis import strategies as st

from python_layer.inference.stop_strings import StopStringFilter


def run(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    stream, out = StopStringFilter(stops), []
    for piece in pieces:
        text, cut = stream.push(piece)
        out.append(text)
        if cut:
            return out, True
    return [*out, stream.flush()], False


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.text("ab", max_size=4), max_size=10), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_cuts_where_the_whole_text_would_be_cut(pieces: list[str], stops: list[str]) -> None:
    out, cut = run(pieces, stops)
    # Met as pieces come: the first prefix of the pieces that holds a stop string decides.
    text, expected = "", None
    for piece in pieces:
        text += piece
        places = [text.find(stop) for stop in stops if stop in text]
        if places:
            expected = text[: min(places)]
            break
    assert cut == (expected is not None)
    assert "".join(out) == ("".join(pieces) if expected is None else expected)


def test_no_part_of_a_stop_string_leaks() -> None:
    assert run(["Hello EN", "D and more"], ["END"]) == (["Hello ", ""], True)
    assert run(["Hello EN", "ough"], ["END"]) == (["Hello ", "ENough", ""], False)
    assert run(["x EN"], ["END"]) == (["x ", "EN"], False)


def test_without_stop_strings_nothing_is_held() -> None:
    assert run(["a", "b"], []) == (["a", "b", ""], False)
