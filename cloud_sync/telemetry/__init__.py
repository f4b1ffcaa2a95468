"""What a node tells of itself: kept on its disk, within a quota, until the controller has it."""
