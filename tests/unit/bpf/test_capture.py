# SPDX-FileCopyrightText: 2026 The edgewire.fleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a capture is asked for, and the file that it writes, read by another implementation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.edgewire.fleet.plugins.module_utils.bpf import capture, layout, pcapng
from ansible_collections.edgewire.fleet.plugins.module_utils.errors import EdgewireError
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader


def options(**changed: Any) -> dict[str, Any]:
    """The module's options."""
    usual = {"reasons": [], "count": 100, "seconds": 10, "snaplen": 256, "per_second": 1000, "dest": "/tmp/drops"}
    return {**usual, **changed}


def test_no_reasons_are_all() -> None:
    request = capture.request_from(options())
    assert request.reasons == tuple(layout.DROP_REASONS)
    assert request.mask == (1 << len(layout.DROP_REASONS)) - 1
    assert (request.count, request.seconds, request.snaplen, request.per_second) == (100, 10, 256, 1000)
    assert request.dest == Path("/tmp/drops")


def test_each_reason_is_the_bit_that_the_programs_look_at() -> None:
    for number, reason in enumerate(layout.DROP_REASONS):
        assert capture.request_from(options(reasons=[reason])).mask == 1 << number


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    wrong = options(
        reasons=["malformed", "boredom"],
        count=0,
        seconds=3601,
        snaplen=63,
        per_second=0,
        dest=str(tmp_path / "no/file"),
    )
    with pytest.raises(EdgewireError) as caught:
        capture.request_from(wrong)
    for told in ("count: 0", "seconds: 3601", "snaplen: 63", "per_second: 0", "boredom", "no/file"):
        assert told in str(caught.value)
    with pytest.raises(EdgewireError, match="dest"):
        capture.request_from(options(dest=str(tmp_path)))


@given(st.integers(*capture.LIMITS["per_second"]))
def test_no_more_is_granted_than_was_asked_for(per_second: int) -> None:
    every, share = capture.grants(per_second)
    assert 0 < every <= 1
    assert per_second / 2 <= share / every <= per_second * (1 + 1e-9)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.integers(0, 2**63),
            st.binary(max_size=99),
            st.integers(0, 2**16),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40),
        )
    )
)
def test_another_reader_finds_what_was_written(packets: list[tuple[int, int, bytes, int, str]]) -> None:
    written = pcapng.section("a capture") + pcapng.interface("eth0", 99) + pcapng.interface("wg0", 99)
    for number, when, data, cut, comment in packets:
        written += pcapng.packet(number, when, data, len(data) + cut, comment)
    found = list(RawPcapNgReader(io.BytesIO(written)))
    assert len(found) == len(packets)
    for (data, told), (number, when, sent, cut, comment) in zip(found, packets, strict=True):
        assert data == sent
        assert (told.linktype, told.wirelen, told.tsresol) == (pcapng.LINKTYPE_ETHERNET, len(sent) + cut, 10**9)
        assert (told.tshigh << 32) + told.tslow == when
        assert told.ifname == (b"eth0", b"wg0")[number]
        assert told.comments == [comment.encode()]
