// Small charts as SVG: coloured by the theme, with a summary for those who do not see them.
import { useState } from "preact/hooks";
import { number, short, timeOf } from "./format";
import { t } from "./i18n";

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [430, 180, 50, 10, 8, 22];
const INNER = HEIGHT - TOP - BOTTOM;

const LINES = 4; // across a chart, at most

/** The values that have a line: round whole numbers from 0 to the first one that is not below `highest`. */
export function linesTo(highest: number): number[] {
  const least = Math.max(1, highest / LINES);
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= least && Number.isInteger(one))!;
  return Array.from({ length: Math.max(1, Math.ceil(highest / step)) + 1 }, (_, n) => n * step);
}

function Grid({ values }: { values: number[] }) {
  const top = values.at(-1)!;
  const y = (value: number): number => TOP + INNER * (1 - value / top);
  return (
    <g class="grid">
      {values.map((value) => (
        <g key={value}>
          <line x1={LEFT} x2={WIDTH - RIGHT} y1={y(value)} y2={y(value)} />
          <text x={LEFT - 6} y={y(value) + 4} text-anchor="end">
            {short(value)}
          </text>
        </g>
      ))}
    </g>
  );
}

/** The numbers of a chart, for those who would rather read them. They are made when they are asked for. */
function Numbers({ title, heads, rows }: { title: string; heads: string[]; rows: () => (string | number)[][] }) {
  const [isOpen, setOpen] = useState(false);
  return (
    <details onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{t("as a table")}</summary>
      {isOpen ? (
        <div class="scroll" tabIndex={0} role="region" aria-label={t("Numbers of {0}", title)}>
          <table>
            <thead>
              <tr>
                {heads.map((head) => (
                  <th key={head} scope="col" class="n">
                    {head}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {rows().map((row, at) => (
                <tr key={at}>
                  {row.map((value, n) => (
                    <td key={n} class="n">
                      {typeof value === "number" ? number(value) : value}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      ) : null}
    </details>
  );
}

/** In place of a chart that has nothing to show. */
function Blank({ title }: { title: string }) {
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <p class="hint">{t("There is nothing to draw yet.")}</p>
    </figure>
  );
}

export interface Row {
  label: string;
  values: Record<string, number>;
}

interface BarsGiven {
  title: string;
  unit: string;
  names: string[];
  rows: Row[];
  /** A line that no bar may cross. */
  limit: number | null;
}

export function Bars({ title, unit, names, rows, limit }: BarsGiven) {
  if (rows.length === 0) return <Blank title={title} />;
  const sums = rows.map((row) => names.reduce((sum, name) => sum + (row.values[name] ?? 0), 0));
  const highest = Math.max(0, ...sums);
  const isFar = limit !== null && highest < limit / 5; // then the bars would be too low to be seen
  const lines = linesTo(Math.max(isFar ? 0 : (limit ?? 0), highest) * 1.02);
  const top = lines.at(-1)!;
  const step = (WIDTH - LEFT - RIGHT) / rows.length;
  const y = (value: number): number => TOP + INNER * (1 - value / top);
  const told = t("{0}: {1} bars, the highest {2} {3}", title, number(rows.length), number(highest), unit);
  return (
    <figure class="chart">
      <figcaption>
        {title}
        <span class="hint">{limit ? t("limit {0}", short(limit)) : ""}</span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={told}>
        <Grid values={lines} />
        {rows.map((row, at) => {
          let base = 0;
          return (
            <g key={at}>
              <title>{`${row.label}: ${names.map((name) => `${name} ${short(row.values[name] ?? 0)}`).join(", ")}`}</title>
              {names.map((name, n) => {
                const below = base;
                base += row.values[name] ?? 0;
                return (
                  <rect
                    key={name}
                    class={`s${n}`}
                    x={LEFT + at * step + step * 0.12}
                    width={Math.max(1, step * 0.76)}
                    y={y(base)}
                    height={Math.max(0, y(below) - y(base))}
                  />
                );
              })}
            </g>
          );
        })}
        {limit && !isFar ? (
          <g class="limit">
            <line x1={LEFT} x2={WIDTH - RIGHT} y1={y(limit)} y2={y(limit)} />
          </g>
        ) : null}
      </svg>
      <div class="legend">
        {names.map((name, n) => (
          <span key={name}>
            <i class={`s${n}`} />
            {name}
          </span>
        ))}
      </div>
      <Numbers
        title={title}
        heads={["", ...names]}
        rows={() => rows.map((row) => [row.label, ...names.map((name) => row.values[name] ?? 0)])}
      />
    </figure>
  );
}

const TENTHS = 10;

/** How many values are in each tenth from 0 to 1; what is above 1 is in the last. The nearer to 1, the warmer. */
export function Histogram({ title, unit, values }: { title: string; unit: string; values: number[] }) {
  if (values.length === 0) return <Blank title={title} />;
  const counts = Array.from({ length: TENTHS }, () => 0);
  for (const value of values) counts[Math.min(TENTHS - 1, Math.floor(value * TENTHS))]! += 1;
  const lines = linesTo(Math.max(...counts));
  const top = lines.at(-1)!;
  const step = (WIDTH - LEFT - RIGHT) / TENTHS;
  const toldOf = (n: number, at: number): string => t("{0} to {1} %: {2} {3}", at * 10, at * 10 + 10, n, unit);
  const told = counts.flatMap((n, at) => (n ? [toldOf(n, at)] : [])).join(", ");
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${title}: ${told || t("none")}`}>
        <Grid values={lines} />
        {counts.map((n, at) => (
          <g key={at}>
            <title>{toldOf(n, at)}</title>
            <rect
              class={at >= 9 ? "s4" : at >= 8 ? "s3" : "s0"}
              x={LEFT + at * step + step * 0.08}
              width={step * 0.84}
              y={TOP + INNER * (1 - n / top)}
              height={(INNER * n) / top}
            />
            {at % 2 ? null : (
              <text x={LEFT + at * step} y={HEIGHT - 6}>
                {`${at * 10} %`}
              </text>
            )}
          </g>
        ))}
      </svg>
      <Numbers title={title} heads={["%", unit]} rows={() => counts.map((n, at) => [`${at * 10}–${at * 10 + 10}`, n])} />
    </figure>
  );
}

/** points: in order, x in ms since 1970. */
export function Line({ title, unit, points }: { title: string; unit: string; points: [number, number][] }) {
  const [first, last] = [points[0], points.at(-1)];
  if (!first || !last || points.length < 2) return <Blank title={title} />;
  const lines = linesTo(Math.max(...points.map(([, value]) => value)));
  const top = lines.at(-1)!;
  const x = (at: number): number => LEFT + ((WIDTH - LEFT - RIGHT) * (at - first[0])) / Math.max(1, last[0] - first[0]);
  const y = (value: number): number => TOP + INNER * (1 - value / top);
  const path = points.map(([at, value], n) => `${n ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  return (
    <figure class="chart">
      <figcaption>{title}</figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={t("{0}: from {1} to {2} {3}", title, number(first[1]), number(last[1]), unit)}
      >
        <Grid values={lines} />
        <path class="area" d={`${path}L${x(last[0])} ${y(0)}L${x(first[0])} ${y(0)}Z`} />
        <path class="line" d={path} />
        <text x={LEFT} y={HEIGHT - 6}>
          {timeOf(first[0])}
        </text>
        <text x={WIDTH - RIGHT} y={HEIGHT - 6} text-anchor="end">
          {timeOf(last[0])}
        </text>
      </svg>
      <Numbers title={title} heads={[t("time"), unit]} rows={() => points.map(([at, value]) => [timeOf(at), value])} />
    </figure>
  );
}
