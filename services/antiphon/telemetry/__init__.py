"""What a process tells about itself: metrics, logs and trace context."""
