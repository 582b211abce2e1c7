-- MySQL runs this script once, when its container initializes the data directory.

-- The image has given the user all rights on its database. These are enough: they are what
-- `tailrace check /etc/tailrace/tailrace.toml --grants` prints.
REVOKE ALL ON `shop`.* FROM tailrace;
GRANT REPLICATION SLAVE, REPLICATION CLIENT, XA_RECOVER_ADMIN, SHOW_ROUTINE ON *.* TO tailrace;
GRANT SELECT, LOCK TABLES, TRIGGER, SHOW VIEW ON `shop`.* TO tailrace;

-- Two tables to mirror.
USE shop;
CREATE TABLE customers (
  id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
  name varchar(100) NOT NULL,
  email varchar(200) NOT NULL UNIQUE,
  created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE orders (
  id int unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY,
  customer_id int unsigned NOT NULL,
  total decimal(10, 2) NOT NULL,
  status enum('new', 'paid', 'shipped') NOT NULL DEFAULT 'new',
  KEY (customer_id)
);
INSERT INTO customers (name, email) VALUES
  ('Ada', 'ada@example.org'), ('Grace', 'grace@example.org'), ('Edsger', 'edsger@example.org');
INSERT INTO orders (customer_id, total) VALUES (1, 19.90), (1, 5.00), (2, 120.00);
