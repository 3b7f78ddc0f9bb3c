"""What moves leave behind: quarantine, orphans, old disks."""
