"""Who proposes. An agent is one file with one public class; `agent: NAME` in program.md picks it."""
