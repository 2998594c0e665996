"""Other projects' formats of logged decisions: Vowpal Wabbit's dsjson and Open Bandit Pipeline's feedback."""
