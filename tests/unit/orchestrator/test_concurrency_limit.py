from services.orchestrator.concurrency_limit import AimdLimit


def test_searches_beyond_the_limit_are_rejected() -> None:
    limit = AimdLimit(value=4.0)
    assert [limit.enter() for _ in range(5)] == [True] * 4 + [False]
    limit.leave(started=0.0, now=1.0, was_late=False)
    assert limit.enter()


def test_the_limit_grows_by_about_one_a_round_while_it_is_used() -> None:
    limit = AimdLimit(value=10.0)
    for moment in range(10):
        limit.running = 10
        limit.leave(started=moment, now=moment + 0.5, was_late=False)
    assert 10.9 < limit.value < 11.0


def test_an_unused_limit_does_not_change() -> None:
    limit = AimdLimit(value=10.0)
    limit.enter()
    limit.leave(started=0.0, now=1.0, was_late=False)
    assert limit.value == 10.0


def test_late_searches_that_started_before_a_decrease_are_ignored() -> None:
    limit = AimdLimit(value=64.0)
    for _ in range(50):
        assert limit.enter()
    limit.leave(started=1.0, now=2.0, was_late=True)
    assert limit.value == 45.0
    for _ in range(20):
        limit.leave(started=1.5, now=2.5, was_late=True)
    assert limit.value == 45.0
    limit.leave(started=2.1, now=3.0, was_late=True)
    assert limit.value == 0.9 * 29


def test_the_limit_never_falls_below_its_minimum() -> None:
    limit = AimdLimit()
    for moment in range(100):
        limit.running = 4
        limit.leave(started=moment, now=moment + 0.5, was_late=True)
    assert limit.value == 4.0


def test_a_limit_finds_the_capacity_of_a_server_that_slows_down() -> None:
    """The server finishes 10 searches at once in time. The limit approaches that from above and from below."""
    for start in (64.0, 4.0):
        limit, moment = AimdLimit(value=start), 0.0
        for _ in range(500):
            began = [limit.enter() for _ in range(int(limit.value) + 5)].count(True)
            for _ in range(began):
                limit.leave(started=moment, now=moment + 0.5, was_late=began > 10)
            moment += 1.0
        assert 7 <= limit.value <= 12
