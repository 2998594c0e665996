from tests.faults import rewards


def test_the_order_of_rewards_does_not_matter(trial):
    assert rewards.run(trial)["shuffles"] >= 5000
