"""The bytes of a payload: as fixed as its version, by which processes tell whether they understand each other."""

import pytest
import torch

from localsgd import ArgumentError
from localsgd.compression import PAYLOAD_VERSION, BFloat16, ErrorFeedback, Float16, Int4, Int8, Sign, TopK

# By hand: a vector that arrives as it is, and its payload, in pieces as they lie one after another.
VERSION_1 = [
    (Float16(), [0.5, -7.0, 2.0], ["00008039", "0068", "00f7", "0070", "0000"]),  # 2^-12; values times 2^12
    (BFloat16(), [1.0, -2.0, 3.0], ["803f", "00c0", "4040", "0000"]),
    (Int8(2), [127.0, -1.0, -63.5, 0.5], ["0000803f", "0000003f", "7f", "ff", "81", "01"]),  # 1, 1/2; two's complement
    # 1, 1/2; codes 14 0 8 7 14, of which each byte holds one of the first three and, above it, one of the others
    (Int4(4), [7.0, -7.0, 1.0, 0.0, 3.5], ["0000803f", "0000003f", "7e", "e0", "08", "00"]),
    (Sign(4), [2.0, -2.0, 2.0, 2.0, -1.0], ["00000040", "0000803f", "12", "000000"]),  # 2, 1; bits of the negative ones
    (TopK(0.25), [0.0, -3.0, 0.0, 0.0], ["01000000", "000040c0"]),  # the place, the value
    (ErrorFeedback(Int8(2)), [-127.0], ["0000803f", "81", "000000"]),
]


@pytest.mark.parametrize(("compressor", "values", "pieces"), VERSION_1, ids=[repr(case[0]) for case in VERSION_1])
def test_the_bytes_of_a_payload_are_those_of_its_version(compressor, values, pieces):
    assert PAYLOAD_VERSION == 1, "write down the bytes of the new version"
    payload = torch.frombuffer(bytearray.fromhex("".join(pieces)), dtype=torch.uint8)
    assert compressor.encode(torch.tensor(values)).tolist() == payload.tolist()
    assert compressor.decode(payload, len(values)).tolist() == values


@pytest.mark.parametrize("length", range(1, 9))
@pytest.mark.parametrize("compressor", [case[0] for case in VERSION_1], ids=repr)
def test_a_payload_that_lacks_one_byte_is_refused_be_it_one_that_fills_up(compressor, length):
    payload = compressor.encode(torch.ones(length))
    with pytest.raises(ArgumentError, match=rf"must hold {payload.numel()} bytes"):
        compressor.decode(payload[:-1], length)
