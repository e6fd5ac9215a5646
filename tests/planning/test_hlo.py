"""Collectives read from compiled text: how often, how much, between whom."""

import pytest

from jaxformers.planning.hlo import along_axes, bytes_of, collectives, group

LOOP = """HloModule step

%condition.1 (arg: (s32[], bf16[4,8])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(6)
  ROOT %less = pred[] compare(%counter, %constant.9), direction=LT
}

%fused.1 (p: bf16[4,4]) -> bf16[4,8] {
  %gather.1 = bf16[4,8]{1,0} all-gather(%p), channel_id=2, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}
}

%fused.2 (p: bf16[4,4]) -> bf16[4,8] {
  %gather.2 = bf16[4,8]{1,0} all-gather(%p), channel_id=2, replica_groups=[2,2]<=[2,2]T(1,0), dimensions={1}
}

%all-reduce-scatter.3 (p: f32[8]) -> f32[4] {
  %reduce.3 = f32[8]{0} all-reduce(%p), channel_id=3, replica_groups={{0,1},{2,3}}, to_apply=%add
}

%body.1 (arg: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %f.1 = bf16[4,8] fusion(%x), kind=kLoop, calls=%fused.1
  %f.2 = bf16[4,8] fusion(%x), kind=kLoop, calls=%fused.2
  %f.3 = f32[4] fusion(%x), kind=kLoop, calls=%all-reduce-scatter.3
}

ENTRY %main (a: bf16[4,8]) -> bf16[4,8] {
  %while.1 = (s32[], bf16[4,8]) while(%t), condition=%condition.1, body=%body.1, metadata={op_name="while"}
  %sum.1 = (f32[10]{0}, f32[]) all-reduce(%a, %b), channel_id=7, replica_groups=mesh['x'=2,'y'=2] {'x','y'}
  %alone = f32[4] all-reduce(%a), channel_id=8, replica_groups={{0},{1},{2},{3}}, to_apply=%add
}
"""


def test_loops_parts_and_kinds() -> None:
    found = {(c.kind, c.runs, c.group): c for c in collectives(LOOP)}
    gather = found.pop(("all-gather", 6, (0, 2)))
    assert gather.moved == 64 / 2  # [4,8] of two bytes, half of it one's own; two parts of one channel are one exchange
    scatter = found.pop(("reduce-scatter", 6, (0, 1)))
    assert scatter.moved == 16  # half of 8 numbers of four bytes
    whole = found.pop(("all-reduce", 1, (0, 1, 2, 3)))
    assert whole.moved == 2 * 44 * 3 / 4
    assert not found, "an exchange within one device is none"


def test_starts_and_known_counts() -> None:
    text = """
%body (x: f32[8]) -> f32[8] {
  %s = ((f32[4]{0}), (f32[8]{0})) all-gather-start(%x), channel_id=1, replica_groups=[1,2]<=[2], dimensions={0}
  %r = ((f32[8], f32[16]), (f32[4], f32[8])) reduce-scatter-start(%x), channel_id=3, replica_groups=[1,2]<=[2]
  %a = f32[8] all-reduce-start(%x), channel_id=4, replica_groups=[1,2]<=[2], to_apply=%add
  %p = (f32[4], f32[4], u32[], u32[]) collective-permute-start(%x), channel_id=2, source_target_pairs={{0,1},{1,0}}
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = f32[8] while(%a), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"32"}}
}
"""
    found = {c.kind: c for c in collectives(text)}
    assert (found["all-gather"].runs, found["all-gather"].moved) == (32, 16)
    assert (found["collective-permute"].runs, found["collective-permute"].moved) == (32, 16)
    assert (found["reduce-scatter"].runs, found["reduce-scatter"].moved) == (32, 48)  # of 24 numbers, half sent away
    assert (found["all-reduce"].runs, found["all-reduce"].moved) == (32, 32)


def test_what_tpu_slices_send_each_other() -> None:
    """Through the hosts, which do the sums: sends that say what kind of exchange they are a part of."""
    text = """
ENTRY %main (a: f32[8]) -> f32[8] {
  %send.1 = (bf16[16,8,128]{2,1,0:T(8,128)(2,1)}, u32[], token[]) send(%x, %t), channel_id=1, ATTRIBUTES
  %send.2 = (f32[8]{0}, u32[], token[]) send(%x, %t), channel_id=2, is_host_transfer=true, OTHERS
  %send.3 = (f32[8]{0}, u32[], token[]) send(%x, %t), channel_id=3, is_host_transfer=true
}
"""
    attributes = 'frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}'
    others = 'frontend_attributes={_xla_megascale_target="{1:4}x{0:3}",_xla_megascale_transfer_type="ALL_GATHER"}'
    first, second = collectives(text.replace("ATTRIBUTES", attributes).replace("OTHERS", others))
    assert (first.kind, first.moved, first.group, first.between_slices) == (
        "all-reduce",
        16 * 8 * 128 * 2,
        (0, 1),
        True,
    )
    assert (second.kind, second.moved, second.runs) == ("all-gather", 3 * 32, 1)


@pytest.mark.parametrize(
    ("line", "members"),
    [
        ("replica_groups=[2,4]<=[8], x", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0), x", (0, 4)),
        ("replica_groups={{0,3},{1,2}}, x", (0, 3)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", (0, 2)),
        ("source_target_pairs={{0,2},{2,4},{4,0},{1,3}}, x", (0, 2, 4)),
    ],
)
def test_groups(line: str, members: tuple[int, ...]) -> None:
    assert group(line) == members


def test_sizes() -> None:
    assert bytes_of("bf16", "4,8") == 64 and bytes_of("f32", "") == 4 and bytes_of("f8e4m3fn", "16") == 16
    assert along_axes("'a'=2,'b'=2,'c'=2", None, None, "'a','c'") == (0, 1, 4, 5)
