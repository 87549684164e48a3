"""What fills the slots of the kernel: similarities, targets, reducers, scales, banks of negatives."""
