-- Up to which try the server knows how the rules that it taught fare here.
ALTER TABLE pattern_sync ADD COLUMN rules_revision INTEGER NOT NULL DEFAULT 0;
