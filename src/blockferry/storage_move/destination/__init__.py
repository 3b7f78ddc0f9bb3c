"""What is made at the destination: names, images, owners; and the release of what was left."""
