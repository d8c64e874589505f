// SPDX-License-Identifier: Apache-2.0

import type { RatePoint } from '../../api/schemas/lifecycle.ts'
import { count, micros, wallClock } from './format.ts'
import { useSize } from './hooks.ts'

/** Values over the last `seconds`, the newest at the right edge; a line ends where a machine did. */
export function Trend({ points, seconds, unit }: { points: readonly RatePoint[]; seconds: number; unit: string }) {
  const { ref, width, height } = useSize<HTMLDivElement>()
  const end = points.at(-1)?.at ?? 0
  const shown = points.filter(({ at }) => at > end - seconds * 1000)
  const top = niceTop(Math.max(10, ...shown.map(({ rate }) => rate)))
  const x = (at: number) => width - ((end - at) / (seconds * 1000)) * width
  const y = (v: number) => height - 18 - (v / top) * (height - 26)
  const runs = [...new Set(shown.map(({ run }) => run))].map(run => shown.filter(point => point.run === run))
  return (
    <div ref={ref} class="chart">
      {width > 0 && (
        <svg
          width={width}
          height={height}
          role="img"
          aria-label={`${unit}, now ${Math.round(points.at(-1)?.rate ?? 0)}`}
        >
          {[0, 0.5, 1].map(f => (
            <g key={f}>
              <line class="grid" x1="0" x2={width} y1={y(top * f)} y2={y(top * f)} />
              {f > 0 && (
                <text class="axis" x="2" y={y(top * f) + 11}>
                  {count(top * f)}
                </text>
              )}
            </g>
          ))}
          {runs.map(run => {
            const line = run.map(({ at, rate }) => `${x(at).toFixed(1)},${y(rate).toFixed(1)}`).join(' ')
            const [first, last] = [x(run[0]?.at ?? end), x(run.at(-1)?.at ?? end)].map(v => v.toFixed(1))
            return (
              <g key={run[0]?.run}>
                <polygon class="area" points={`${first},${height - 18} ${line} ${last},${height - 18}`} />
                <polyline class="line" points={line} />
              </g>
            )
          })}
          <text class="axis" x="2" y={height - 4}>
            −{seconds > 120 ? `${seconds / 60} min` : `${seconds} s`}
          </text>
          <text class="axis end" x={width - 2} y={height - 4}>
            {points.length === 0 ? '' : wallClock(end).slice(0, 8)}
          </text>
        </svg>
      )}
    </div>
  )
}

function niceTop(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value))
  return [1, 2, 5, 10].map(f => f * power).find(v => v >= value) ?? value
}

/** Counts over a logarithmic axis of nanoseconds, with quantiles in µs marked. */
export function Histogram(props: {
  buckets: readonly (readonly number[])[]
  marks: readonly (readonly [string, number])[]
}) {
  const { ref, width, height } = useSize<HTMLDivElement>()
  const LOW = Math.log10(1_000)
  const HIGH = Math.log10(100_000_000)
  const bars = Math.max(20, Math.floor(width / 7))
  const sums = new Array<number>(bars).fill(0)
  for (const [ns = 0, n = 0] of props.buckets) {
    const at = ((Math.log10(Math.max(ns, 1)) - LOW) / (HIGH - LOW)) * bars
    const i = Math.min(bars - 1, Math.max(0, Math.floor(at)))
    sums[i] = (sums[i] ?? 0) + n
  }
  // Roots, so that the rare slow ones can be seen beside the many fast ones.
  const peak = Math.sqrt(Math.max(1, ...sums))
  const base = height - 18
  const x = (ns: number) => ((Math.log10(Math.max(ns, 1)) - LOW) / (HIGH - LOW)) * width
  return (
    <div ref={ref} class="chart">
      {width > 0 && (
        <svg width={width} height={height} role="img" aria-label="histogram of trap times">
          {sums.map((n, i) => {
            const h = n === 0 ? 0 : Math.max(2, (Math.sqrt(n) / peak) * (base - 18))
            return (
              <rect
                key={i}
                class="column"
                x={(i * width) / bars + 1}
                y={base - h}
                width={width / bars - 2}
                height={h}
              />
            )
          })}
          <line class="grid" x1="0" x2={width} y1={base} y2={base} />
          {[1_000, 10_000, 100_000, 1_000_000, 10_000_000].map(ns => (
            <text key={ns} class="axis" x={x(ns) + 2} y={height - 4}>
              {ns >= 1_000_000 ? `${ns / 1_000_000} ms` : `${ns / 1_000} µs`}
            </text>
          ))}
          {props.marks
            .filter(([, us]) => us > 0)
            .map(([name, us], i) => (
              <g key={name}>
                <line class="mark" x1={x(us * 1000)} x2={x(us * 1000)} y1={4 + i * 11} y2={base} />
                <text class="mark-text" x={x(us * 1000) + 4} y={13 + i * 11}>
                  {name} {micros(us)}
                </text>
              </g>
            ))}
        </svg>
      )}
    </div>
  )
}

/** Shares of a whole, beside a number. */
export function Share({ parts, total }: { parts: readonly (readonly [tone: string, value: number])[]; total: number }) {
  return (
    <svg class="share" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      {
        parts.reduce<{ x: number; out: preact.JSX.Element[] }>(
          ({ x, out }, [tone, value], i) => {
            const w = total > 0 ? (value / total) * 100 : 0
            out.push(<rect key={i} class={`fill-${tone}`} x={x} y="0" width={w} height="8" />)
            return { x: x + w, out }
          },
          { x: 0, out: [] },
        ).out
      }
    </svg>
  )
}
