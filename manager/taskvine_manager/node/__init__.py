"""Parts of a node that both engines share: function slots, one-shot tasks, cache, staging and limits."""
