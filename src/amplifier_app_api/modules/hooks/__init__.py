"""Hook modules: each registers asynchronous handlers under names of its own, and takes all of them away again."""
