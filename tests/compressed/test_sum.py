"""Sums of which only payloads cross the wire, between real processes."""

import io

import pytest
import torch

import localsgd.compressed.sum
from localsgd import ArgumentError, OneProcess, Processes
from localsgd.communicators import Nested, communicators_by_level
from localsgd.compressed.sum import CompressedSum
from localsgd.compression import BFloat16, ErrorFeedback, Float16, Int4, Int8, Sign, TopK
from localsgd.errors import DisagreementError

COMPRESSORS = [
    Float16(),
    BFloat16(),
    Int8(),
    Int8(16, rounding="stochastic"),
    Int4(16),
    Sign(16),
    TopK(0.1),
    ErrorFeedback(Float16()),
    ErrorFeedback(BFloat16()),
    ErrorFeedback(Int8(16)),
    ErrorFeedback(Int4(16, rounding="stochastic")),
    ErrorFeedback(Sign(16)),
    ErrorFeedback(TopK(0.1)),
]
NUM_ROUNDS = 3
ALL_AT_ONCE = 1 << 24
LENGTHS = [
    (0, ALL_AT_ONCE),
    (1, ALL_AT_ONCE),
    (5, ALL_AT_ONCE),
    (1001, ALL_AT_ONCE),
    (1001, 257),
]  # and length of a bucket


def change(rank, number, length):
    generator = torch.Generator().manual_seed(1000 * rank + number)
    return torch.randn(length, generator=generator) * 10.0 ** (
        -rank
    )  # what one process has to say outweighs the others


def sum_rounds(cases):
    """Several sums for each case; gives results, bytes, and what is still owed."""
    communicator, found = Processes(), []
    for compressor, length, bucket_values in cases:
        summed = CompressedSum(compressor, communicator, num_values=length, bucket_values=bucket_values)
        results, before = [], communicator.wire_bytes
        for number in range(NUM_ROUNDS):
            vector = change(communicator.rank, number, length)
            summed.sum_(vector)
            results.append(vector)
        sent = communicator.wire_bytes - before
        found.append({"results": results, "sent": sent, "announced": summed.num_wire_bytes, "state": summed.state()})
    return found


@pytest.fixture(scope="module", params=[2, 3], ids="{0}-processes".format)
def cases(request, processes):
    """Each case with what each process found."""
    described = [(compressor, *lengths) for compressor in COMPRESSORS for lengths in LENGTHS]
    found = processes(sum_rounds, request.param, described)
    return list(zip(described, zip(*found, strict=True), strict=True))


def meant(length, world_size):
    return [sum(change(rank, number, length).double() for rank in range(world_size)) for number in range(NUM_ROUNDS)]


def test_all_processes_hold_the_same_bits_after_every_sum(cases):
    for case, (first, *others) in cases:
        for other in others:
            assert all(map(torch.equal, first["results"], other["results"])), case


def test_the_bytes_that_crossed_are_those_of_the_payloads(cases):
    for (compressor, length, bucket_values), found in cases:
        world_size = len(found)
        pieces = [min(bucket_values, length - begin) for begin in range(0, length, bucket_values)]
        slots = sum(compressor.num_bytes(-(-piece // world_size)) for piece in pieces)
        for process in found:
            assert process["announced"] == 2 * (world_size - 1) * slots
            assert process["sent"] == NUM_ROUNDS * process["announced"]


def test_what_arrived_and_what_is_still_owed_is_what_was_meant(cases):
    checked = 0
    for (compressor, length, bucket_values), found in cases:
        if not compressor.keeps_residual:
            continue
        arrived = sum(result.double() for result in found[0]["results"])
        owed = sum(process["state"]["residual"].double() for process in found)
        owned = [process["state"]["owned_residual"] for process in found]
        begins = [0] * len(found)
        for begin in range(0, length, bucket_values):
            parts = torch.arange(begin, min(begin + bucket_values, length)).tensor_split(len(found))
            for rank, part in enumerate(parts):
                owed[part] += owned[rank][begins[rank] : begins[rank] + part.numel()]
                begins[rank] += part.numel()
        assert begins == [own.numel() for own in owned]
        # Five numbers of a size of about 5 are added a round in float32, whose steps there are 5e-7.
        assert torch.allclose(arrived + owed, sum(meant(length, len(found))), rtol=0, atol=1e-5)
        checked += length > 5 and bool((owed.abs() > 1e-5).any())
    assert checked == 12  # otherwise there was nothing owed, and nothing was shown


def test_nothing_is_remembered_without_error_feedback(cases):
    for (compressor, _, _), found in cases:
        if not compressor.keeps_residual:
            assert all(
                process["state"][name].numel() == 0 for process in found for name in ("residual", "owned_residual")
            )


def test_the_sum_of_bfloat16_payloads_is_that_of_plain_torch(cases):
    for (compressor, length, bucket_values), found in cases:
        if compressor != BFloat16():
            continue
        for number, result in enumerate(found[0]["results"]):
            own = [change(rank, number, length) for rank in range(len(found))]
            expected = torch.empty(length)
            for begin in range(0, length, bucket_values):
                parts = torch.arange(begin, min(begin + bucket_values, length)).tensor_split(len(found))
                for owner, part in enumerate(parts):
                    rounded = [v[part] if rank == owner else v[part].bfloat16().float() for rank, v in enumerate(own)]
                    expected[part] = sum(rounded).bfloat16().float()
            assert torch.equal(result, expected)


@pytest.mark.parametrize(
    ("compressor", "error"), [(Float16(), 1e-3), (BFloat16(), 8e-3), (Int8(), 0.02), (Int4(16), 0.2)], ids=repr
)
def test_each_sum_is_near_what_was_meant(compressor, error, cases):
    for (own, length, _), found in cases:
        if own == compressor and length > 5:
            for result, wanted in zip(found[0]["results"], meant(length, len(found)), strict=True):
                assert torch.linalg.vector_norm(result - wanted) < error * torch.linalg.vector_norm(wanted)


def through_a_file(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def stop_and_resume(compressor, length):
    def fresh():
        return CompressedSum(compressor, Processes(), num_values=length, bucket_values=100, seed=7)

    def summed(own, numbers):
        vectors = [change(own_rank, number, length) for number in numbers]
        for vector in vectors:
            own.sum_(vector)
        return vectors

    own_rank = Processes().rank
    unbroken = summed(fresh(), range(5))
    first = fresh()
    early = summed(first, range(2))
    second = fresh()
    second.load(through_a_file(first.state()))
    return all(map(torch.equal, early + summed(second, range(2, 5)), unbroken))


@pytest.mark.parametrize("compressor", [ErrorFeedback(Sign(16)), Int8(rounding="stochastic"), TopK(0.1)], ids=repr)
def test_a_sum_that_went_through_a_file_goes_on_with_the_same_bits(compressor, processes):
    assert processes(stop_and_resume, 2, compressor, 301) == [True, True]


def rounding_of(seeds):
    found = []
    for seed in seeds:
        summed = CompressedSum(Int4(rounding="stochastic"), Processes(), num_values=400, seed=seed)
        for _ in range(2):
            vector = change(0, 0, 400)
            summed.sum_(vector)
            found.append(vector)
    return found


def test_every_sum_and_every_seed_rounds_in_a_way_of_its_own(processes):
    first, second, other, _ = processes(rounding_of, 2, [0, 1])[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    again = processes(rounding_of, 2, [0])[0]
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def construct(options):
    try:
        CompressedSum(communicator=Processes(), **options[Processes().rank])
    except DisagreementError as error:
        return str(error)
    return "agreed"


def test_processes_with_different_compressors_are_told_so_before_anything_is_sent(processes):
    options = [{"compressor": Int8(), "num_values": 9}, {"compressor": ErrorFeedback(Int8()), "num_values": 9}]
    for message in processes(construct, 2, options):
        assert message.startswith(
            "process 1 of 2 has compression ErrorFeedback(inner=Int8(block=256, rounding='nearest'))"
        )
        assert (
            "where process 0 has Int8(block=256, rounding='nearest') payload version 1, 9 values of torch.float32"
            in message
        )


def construct_another_version():
    version = localsgd.compressed.sum.PAYLOAD_VERSION
    if Processes().rank == 1:
        localsgd.compressed.sum.PAYLOAD_VERSION = version + 1
    try:
        return construct([{"compressor": Sign(), "num_values": 9}] * 2)
    finally:
        localsgd.compressed.sum.PAYLOAD_VERSION = version


def test_a_peer_that_sends_another_payload_version_is_refused(processes):
    for message in processes(construct_another_version, 2):
        assert message.startswith("process 1 of 2 has compression Sign(block=256) payload version 2, 9 values")
        assert "where process 0 has Sign(block=256) payload version 1, 9 values" in message


def sum_in_blocks(sizes, compressor, length):
    levels = communicators_by_level(Processes(), sizes)
    outermost = levels[-1]
    summed = CompressedSum(compressor, outermost, num_values=length)
    results = []
    for number in range(NUM_ROUNDS):
        vector = change(outermost.rank, number, length)
        summed.sum_(vector)
        results.append(vector)
    sent = outermost.wire_bytes_by_level if isinstance(outermost, Nested) else (outermost.wire_bytes,)
    return {"results": results, "sent": sent, "announced": summed.num_wire_bytes, "state": summed.state()}


@pytest.mark.parametrize("compressor", [Int8(16), ErrorFeedback(Sign(16))], ids=repr)
def test_in_nested_blocks_only_what_crosses_between_blocks_is_compressed(compressor, processes):
    length = 1003
    found = processes(sum_in_blocks, 4, (2, 2), compressor, length)
    for process in found:
        assert all(map(torch.equal, process["results"], found[0]["results"]))
        inside, between = process["sent"]
        rest = length % 2 * 4
        assert process["announced"] == 2 * compressor.num_bytes(-(-(length // 2) // 2))
        assert between == NUM_ROUNDS * (process["announced"] + rest)
        assert inside == NUM_ROUNDS * (2 * (length // 2) * 4 + rest)
    exact = sum(meant(length, 4))[-1]
    assert torch.allclose(sum(result[-1].double() for result in found[0]["results"]), exact)  # the odd one out is exact


def test_one_process_has_nothing_to_compress():
    vector = change(0, 0, 300)
    summed = CompressedSum(ErrorFeedback(Sign()), OneProcess(), num_values=300)
    before = vector.clone()
    summed.sum_(vector)
    assert torch.equal(vector, before)
    assert (summed.num_wire_bytes, summed.state()["residual"].numel()) == (0, 0)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float16], ids=str)
def test_what_means_are_not_formed_in_is_refused(dtype):
    with pytest.raises(
        ArgumentError, match=rf"dtype={dtype} must be torch\.float32 or torch\.float64, .* whole numbers"
    ):
        CompressedSum(Int8(), OneProcess(), num_values=3, dtype=dtype)


@pytest.mark.parametrize("compressor", [None, Int8, "int8"], ids=repr)
def test_what_is_no_compressor_is_refused(compressor):
    with pytest.raises(ArgumentError, match=r"compressor=.* must be a compressor, for example Int8\(\)"):
        CompressedSum(compressor, OneProcess(), num_values=3)


class OnlySums:
    """A communicator of somebody else's that knows nothing of payloads."""

    rank, world_size, wire_bytes = 0, 1, 0

    def all_reduce_(self, vector): ...

    def broadcast_(self, tensor, *, source=0): ...

    def gather(self, item): ...

    def __repr__(self):
        return "OnlySums()"


def test_a_communicator_that_cannot_carry_payloads_is_refused():
    with pytest.raises(ArgumentError, match=r"communicator=OnlySums\(\) cannot carry payloads; use Processes\(\)"):
        CompressedSum(Int8(), OnlySums(), num_values=3)


@pytest.mark.parametrize("vector", [torch.zeros(4), torch.zeros(3, dtype=torch.float64), torch.zeros(3, 1)])
def test_another_vector_than_was_announced_is_refused(vector):
    summed = CompressedSum(Int8(), OneProcess(), num_values=3)
    with pytest.raises(ArgumentError, match=r"vector of shape .* must be of shape \[3\] and torch\.float32 on cpu"):
        summed.sum_(vector)


def load_of_another_length():
    saved = CompressedSum(ErrorFeedback(Sign()), Processes(), num_values=10).state()
    other = CompressedSum(ErrorFeedback(Sign()), Processes(), num_values=12)
    try:
        other.load(saved)
    except ArgumentError as error:
        return str(error)
    return "loaded"


def test_a_state_of_another_model_is_refused(processes):
    for message in processes(load_of_another_length, 2):
        assert message.startswith("state holds residual of 10 values where 12 are needed; resume with the model")
