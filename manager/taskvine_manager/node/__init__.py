"""What every node does under either engine: function slots, one-shot tasks, cache, staging and limits."""
