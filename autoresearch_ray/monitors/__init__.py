"""What reads the device. A monitor is one file with one public class; `monitor: NAME` in program.md picks it."""
