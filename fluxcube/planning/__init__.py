"""Plan maps before they are computed: tasks, chunks that are read, RAM, hours and cost, from a measured sample."""
