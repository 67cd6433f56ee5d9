// Rows as CSV, for spreadsheets.

/** A text that a spreadsheet takes for a formula would be run by it. */
function cell(value: unknown): string {
  const text = String(value ?? "");
  return `"${(/^[=+\-@\t\r]/.test(text) ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** names: the columns, in their order. */
export const csvOf = <T extends object>(names: readonly (keyof T & string)[], rows: T[]): string =>
  `${[names.join(","), ...rows.map((row) => names.map((name) => cell(row[name])).join(","))].join("\r\n")}\r\n`;
