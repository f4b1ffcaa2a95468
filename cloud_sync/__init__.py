"""Agreement with the cloud, and the durable state that it rests on."""
