"""Random secrets in random output, cut at random places: none may come out, and all else must.

`python -m tests.mask_fuzz 1000000 [SEED]` tries so many cuts; `tests/unit/test_mask_fuzz.py` a few
thousand of them, or WS_HUB_MASK_CUTS. What is expected is written down while the output is made,
and owes nothing to the code that is tested.
"""

from __future__ import annotations

import base64
import json
import random
import re
import sys
import time
from urllib.parse import quote

from ws_hub.lines import GOES_ON, MAX_PIECE, REPLACED, Lines, Texts
from ws_hub.mask.masks import Masks
from ws_hub.mask.stream import StreamMask

# What is no secret is made of these, so that no form of a secret is in it by accident.
FILL = "αβγδεζ.:| "
INSIDE = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789"
ODD = "+/%=&?\"' -_~\\äß€😀"
SEQUENCES = (
    "\x1b[31m",
    "\x1b[0m",
    "\x1b[1;4m",
    "\x1b[K",
    "\x1b]8;;http://αβ/\x1b\\",
    "\x1b[38;5;9m",
)
PATTERN = re.compile("q_[a-f]{6,10}")
SEQUENCE = re.compile(r"\x1b\[[0-9;]*[a-zA-Z]|\x1b\][^\x1b]*\x1b\\")


class Case:
    """One output: its secrets, its bytes, and the lines that are to come out."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.secrets = [self._secret() for _ in range(rng.choice((1, 1, 2, 3, 8)))]
        # It has a match of the pattern inside, which is one as well where the secret is cut short.
        self.around = (rng.choice(INSIDE), self._match(), "".join(rng.choices(INSIDE, k=20)))
        self.columns = rng.choice((None, None, 200))
        self.parts: list[str] = []
        self.lines: list[str] = []
        for _ in range(rng.randrange(1, 8)):
            kinds = (self._plain, self._plain, self._redrawn, self._assembled, self._long)
            rng.choice(kinds)()

    @property
    def data(self) -> bytes:
        return "".join(self.parts).encode()

    def _secret(self) -> str:
        rng = self.rng
        alphabet = INSIDE + ODD if rng.random() < 0.4 else INSIDE
        length = rng.choice((4, 5, 8, 16, 20, 40, 64, 300))
        if rng.random() < 0.15:
            rows = ["".join(rng.choices(INSIDE, k=rng.choice((5, 24, 64)))) for _ in range(3)]
            return "\n".join(["-----BEGIN KEY-----", *rows, "-----END KEY-----"])
        middle = "".join(rng.choices(alphabet, k=length - 2))
        return rng.choice(INSIDE) + middle + rng.choice(INSIDE)

    def _match(self) -> str:
        return "q_" + "".join(self.rng.choices("abcdef", k=self.rng.randrange(6, 11)))

    def _rows(self) -> list[str]:
        """The secrets by their lines."""
        return [row for secret in self.secrets for row in secret.split("\n")]

    def _fill(self, most: int = 20) -> str:
        return "".join(self.rng.choices(FILL, k=self.rng.randrange(most)))

    def _shown(self) -> tuple[str, str]:
        """A secret in one of its forms, and what is to come out."""
        rng, row = self.rng, self.rng.choice(self._rows())
        how = rng.randrange(9)
        if how == 1:
            form = quote(row, safe=rng.choice(("", "/", "!'()*")))
            if rng.random() < 0.5:
                form = re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), form)
            return (form.replace("%20", "+") if rng.random() < 0.3 else form), "***"
        if how == 2:
            return json.dumps(row, ensure_ascii=rng.random() < 0.5)[1:-1], "***"
        if how == 3:
            return self._base64(row)
        if how == 4:
            return self._coloured(row)
        if how == 5:  # of the pattern
            return self._coloured(self._match())
        if how == 6:  # not quite of it
            text = "q_" + "".join(rng.choices("abcdef", k=rng.randrange(6)))
            return text, text
        if how == 7:
            first, match, last = self.around
            if (end := rng.randrange(len(last) + 1)) == len(last):
                return first + match + last, "***"
            return first + match + last[:end], f"{first}***{last[:end]}"
        return row, "***"

    def _base64(self, row: str) -> tuple[str, str]:
        rng, data = self.rng, row.encode()
        before = rng.randbytes(rng.randrange(5))
        after = b"\xff" * rng.randrange(3)  # zeros could be the end of the text
        encode = rng.choice((base64.b64encode, base64.urlsafe_b64encode))
        text = encode(before + data + after).decode()
        first = -(-len(before) * 8 // 6)
        last = (len(before) + len(data)) * 8 // 6
        if not after:
            last = len(text)
            if rng.random() < 0.5:
                text = text.rstrip("=")
        return text, text[:first] + "***" + text[last:]

    def _coloured(self, row: str) -> tuple[str, str]:
        out = "".join(
            character + (self.rng.choice(SEQUENCES) if self.rng.random() < 0.3 else "")
            for character in row
        )
        return out + "\x1b]8;;\x1b\\\x1b[0m", "***"

    def _text(self) -> tuple[str, str]:
        """Text with secrets, and what is to come out; none begins or ends with a blank."""
        raw = out = "|"
        for _ in range(self.rng.randrange(3)):
            fill = self._fill() + "|"
            form, masked = self._shown()
            raw, out = raw + fill + form + "|", out + fill + masked + "|"
        return raw, out

    def _plain(self) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            raw, out = self._text()
            self._line(raw, out)

    def _line(self, raw: str, out: str) -> None:
        self.parts.append(raw + ("\n" if self.columns is None else "\r\n"))
        self.lines.append(out)

    def _redrawn(self) -> None:
        whole = row = ""
        for _ in range(self.rng.randrange(1, 4)):
            raw, out = self._text()
            if self.columns is not None and len(out) > self.columns:
                return
            whole += "\r" + raw.replace("\x1b[K", "")  # it would erase what was there
            row = out + row[len(out) :]
        self._line(whole, row)

    def _assembled(self) -> None:
        """A secret that is nowhere in the output, but on the screen."""
        row = self.rng.choice(self._rows())
        if max(map(ord, row)) > 0xFF or len(row) > 150:
            return
        middle = self.rng.randrange(1, len(row))
        first, second = row[:middle], row[middle:]
        how = self.rng.randrange(3)
        if how == 0:  # the second half before the first
            raw = f"|\x1b[{len(first) + 2}G{second}|\r|{first}"
        elif how == 1:  # drawn over something else
            raw = f"|{'.' * len(first)}{second}|\r|{first}"
        else:  # a wrong character, taken back
            raw = f"|{first}.\b{second}|"
        self._line(raw, "|***|")

    def _long(self) -> None:
        if self.columns is not None or self.rng.random() < 0.7:
            return
        fill = "α" * (MAX_PIECE - self.rng.randrange(60))
        form, masked = self._shown()
        if "\x1b" not in form:
            self._line(fill + form + "|", fill + masked + "|")


def forms(row: str) -> set[str]:
    """What must not come out for one line of a secret; a part of what is masked."""
    data, found = row.encode(), {row, json.dumps(row)[1:-1]}
    upper = quote(row, safe="")
    found |= {upper, re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), upper)}
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(b"x" * before + data).decode()
            found.add(text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6])
    return found


def check(rng: random.Random, case: Case) -> int:
    """Cut a case, have it masked, and look at what comes out; return how many cuts it had."""
    masks = Masks()
    masks.add([*case.secrets, "".join(case.around), PATTERN])
    mask = StreamMask(masks)
    lines, data = Lines(columns=case.columns, mask=mask), case.data
    texts: list[tuple[int, str]] = []
    raw = b""
    size = max(rng.choice((1, 3, 10, 40, 200)), len(data) // 200)

    def keep(more: Texts) -> None:
        texts.extend(zip(more.numbers, more, strict=True))

    at = cuts = 0
    while at < len(data):
        end = at + rng.randrange(1, 2 * size + 1)
        out = mask.feed(data[at:end])
        raw += out
        keep(lines.feed(out))
        if rng.random() < 0.3:
            keep(lines.partial())
        at, cuts = end, cuts + 1
    out = mask.finish()
    raw += out
    keep(lines.feed(out))
    keep(lines.finish())
    expected = StreamMask(masks)
    assert raw == expected.feed(data) + expected.finish(), "the cuts make a difference"
    secret = [form for row in case._rows() for form in forms(row)]
    whole: dict[int, str] = {}
    final: dict[int, str] = {}
    for number, text in texts:
        bare = SEQUENCE.sub("", text)
        shown = whole.get(number, "") + bare.rstrip(REPLACED + GOES_ON)
        for form in secret:
            assert form not in shown, f"{form!r} in {text!r}"
        if text.endswith(GOES_ON):
            whole[number] = shown
        elif not text.endswith(REPLACED):
            final[number] = shown
        assert PATTERN.search(shown) is None, f"a match in {text!r}"
    sent = SEQUENCE.sub("", raw.decode())
    assert PATTERN.search(sent) is None, "a match in the bytes"
    for form in secret:
        assert form not in sent, f"{form!r} in the bytes"
    given = [text for number, text in sorted(final.items()) if number]
    assert given == case.lines, f"{given!r} != {case.lines!r}"
    return cuts


def run(cuts: int, seed: int) -> tuple[int, int]:
    """Try at least so many cuts; return how many, in how many outputs."""
    done = number = 0
    while done < cuts:
        rng = random.Random(f"{seed}:{number}")
        case = Case(rng)
        try:
            for _ in range(3):
                done += check(rng, case)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}:{number}: {case.secrets!r}: {error}") from error
        number += 1
    return done, number


if __name__ == "__main__":
    began = time.process_time()
    cuts, outputs = run(int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0]))
    seconds = time.process_time() - began
    print(f"{cuts:,} cuts in {outputs:,} outputs: no secret came out ({seconds:.0f} s)")
