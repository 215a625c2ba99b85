"""Attribution of a target's probability to MLP neurons."""
