"""Many runs: planned, packed into tasks, executed here or on a cluster, and watched."""
