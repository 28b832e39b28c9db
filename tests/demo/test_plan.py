"""The plan: the same for a seed, and with something of every trouble."""

from collections import Counter
from ipaddress import ip_address

from enrollment_demo.demo.asking import Reply
from enrollment_demo.demo.count import Half, percentiles
from enrollment_demo.demo.plan import Plan, Trouble, draw
from enrollment_demo.demo.visitors import Tally


def test_a_seed_makes_the_plan() -> None:
    """Both halves, and a later run, act out the same one."""
    assert draw(30, 7) == draw(30, 7)
    assert draw(30, 7) != draw(30, 8)


def test_everybody_has_an_address_and_a_key_of_their_own() -> None:
    """And all addresses are the machine's own."""
    visits = draw(300, 1).visits
    assert len({visit.address for visit in visits}) == 300
    assert all(ip_address(visit.address).is_loopback for visit in visits)
    assert len({visit.key for visit in visits}) == 300
    assert [visit.start for visit in visits] == sorted(visit.start for visit in visits)


def test_every_trouble_and_a_storm_in_the_outage() -> None:
    """Storms have 15 to 20 requests; one of them meets the ledger alone."""
    for seed in range(20):
        plan = draw(10, seed)
        assert {visit.trouble for visit in plan.visits} == set(Trouble)
        storms = [visit for visit in plan.visits if visit.trouble is Trouble.STORM]
        assert all(15 <= visit.copies <= 20 for visit in storms)
        away, back = plan.outage
        assert any(away < visit.start < back for visit in storms)


def test_one_student_is_a_storm() -> None:
    """The smallest demo still shows something."""
    [visit] = draw(1, 3).visits
    assert visit.trouble is Trouble.STORM


def counted(plan: Plan, **rows: Counter[str]) -> Half:
    return Half(plan, Tally(), rows, Counter())


def test_exact_looks_at_each_student_not_at_the_totals() -> None:
    """One who has two and one who has none are not two who have one."""
    plan = draw(2, 1)
    one_each = Counter(["s-0001", "s-0002"])
    two_and_none = Counter({"s-0001": 2})

    assert counted(plan, enrollments=one_each, invoices=one_each).exact
    assert not counted(plan, enrollments=one_each, invoices=two_and_none).exact
    assert not counted(plan, enrollments=one_each + Counter(["stranger"])).exact
    assert counted(plan, enrollments=one_each, invoices=two_and_none).duplicates == 1


def test_percentiles() -> None:
    """Of nothing there are none."""
    assert percentiles([]) == (None, None)
    assert percentiles([5.04]) == (5.0, 5.0)
    assert percentiles([float(value) for value in range(1, 102)]) == (51.0, 96.0)


def test_which_replies_are_final() -> None:
    """A 409 with Retry-After is a request to come again; without it, an answer."""
    assert Reply(201, None, False, b"").final
    assert Reply(409, None, False, b"").final
    assert not Reply(409, 1.0, False, b"").final
    assert not Reply(503, 1.0, False, b"").final
