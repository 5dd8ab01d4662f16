"""What is kept. A policy is one file with one public class; `policy: NAME` in program.md picks it."""
