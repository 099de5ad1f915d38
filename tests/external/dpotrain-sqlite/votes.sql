CREATE TABLE votes (question TEXT, answer_a TEXT, answer_b TEXT, vote TEXT);

-- Thirty votes, of which every fifth is a tie.
WITH RECURSIVE numbers (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 29)
INSERT INTO votes
SELECT
    'May I have tea, number ' || n || '?',
    CASE n % 2 WHEN 0 THEN ' Certainly, number ' || n || ' is yours.' ELSE ' No.' END,
    CASE n % 2 WHEN 0 THEN ' No, not number ' || n || '.' ELSE ' Certainly.' END,
    CASE WHEN n % 5 = 4 THEN 'tie' WHEN n % 2 = 0 THEN 'a' ELSE 'b' END
FROM numbers;
