// SPDX-License-Identifier: Apache-2.0
import { useRef, useState } from 'preact/hooks'
import type { Timeline } from '../../api/schemas/trace.ts'
import { call } from './api.ts'
import { counted, micros, seconds } from './format.ts'
import { useLoaded, useSize } from './hooks.ts'
import { running, status } from './store.ts'
import { Button } from './ui.tsx'

const HEIGHT = 46
/** Width of a bin, CSS pixels. */
const BIN = 4
/** Shortest span, ns. */
const SHORTEST = 1_000
const REFRESH = 2_000

export interface Span {
  readonly from: number
  readonly to: number
}

/** All traps of the machine over guest time, and what else happened; zooms by wheel, mouse and keys. */
export function TimeLine(props: {
  /** Guest time of the trap that is looked at, ns. */
  at: number | undefined
  select: (row: number) => void
  /** Shows only the traps of this time in the list. */
  only: (span: Span) => void
}) {
  const { ref, width } = useSize<HTMLDivElement>()
  const [span, setSpan] = useState<Span | undefined>()
  const [drag, setDrag] = useState<Span | undefined>()
  const start = useRef<number | undefined>(undefined)
  const bins = Math.max(20, Math.min(2_000, Math.floor(width / BIN)))
  const loaded = useLoaded(
    async () => (width === 0 ? undefined : await call('GET /traps/timeline', { query: { bins, ...span } })),
    running.value ? REFRESH : 0,
    [bins, span?.from, span?.to, status.value?.run, running.value],
  )
  const line = loaded.data
  const shown: Span = span ?? (line ? { from: line.from, to: line.to } : { from: 0, to: 1 })
  const length = shown.to - shown.from
  const zoom = (factor: number, at = (shown.from + shown.to) / 2) => {
    if (line === undefined) return
    const wanted = Math.max(SHORTEST, length * factor)
    if (wanted >= line.last - line.first) return setSpan(undefined)
    const from = Math.min(Math.max(line.first, at - ((at - shown.from) / length) * wanted), line.last - wanted)
    setSpan({ from, to: from + wanted })
  }
  const pan = (by: number) => {
    if (line === undefined || span === undefined) return
    const from = Math.min(Math.max(line.first, span.from + by * length), line.last - length)
    setSpan({ from, to: from + length })
  }
  const timeAt = (x: number) => shown.from + (Math.min(Math.max(x, 0), width) / Math.max(width, 1)) * length
  const x = (time: number) => ((time - shown.from) / Math.max(length, 1)) * width
  /** The first trap at or after that time. */
  const pick = (time: number) => {
    const bin = Math.floor(((time - shown.from) / length) * bins)
    const row = line?.rows.slice(Math.max(0, bin)).find(id => id > 0)
    if (row !== undefined) props.select(row)
  }
  const key = (event: KeyboardEvent) => {
    const does = {
      '+': () => zoom(0.5),
      '-': () => zoom(2),
      ArrowLeft: () => pan(-0.25),
      ArrowRight: () => pan(0.25),
      Enter: () => pick(shown.from),
    }[event.key]
    if (does === undefined) return
    does()
    event.preventDefault()
    event.stopPropagation()
  }
  return (
    <div class="time-line">
      <div class="toolbar">
        <span class="mono">
          {seconds(shown.from)} – {seconds(shown.to)} s
        </span>
        <span class="muted">of guest time, {micros(length / 1e3)}</span>
        <span class="grow" />
        <Button local class="small" aria-label="Zoom in" onClick={() => zoom(0.5)}>
          +
        </Button>
        <Button local class="small" aria-label="Zoom out" disabled={span === undefined} onClick={() => zoom(2)}>
          −
        </Button>
        <Button local class="small" disabled={span === undefined} onClick={() => setSpan(undefined)}>
          All
        </Button>
        <Button local class="small" onClick={() => props.only(shown)}>
          Only these traps
        </Button>
      </div>
      <div ref={ref} class="time-chart">
        {line !== undefined && width > 0 && (
          <svg
            width={width}
            height={HEIGHT}
            tabindex={0}
            role="img"
            aria-label={`${counted(
              line.traps.reduce((a, b) => a + b, 0),
              'trap',
            )}; plus and minus zoom, arrows move, Enter selects the first`}
            onKeyDown={key}
            onWheel={event => {
              event.preventDefault()
              zoom(event.deltaY < 0 ? 0.6 : 1 / 0.6, timeAt(event.offsetX))
            }}
            onPointerDown={event => {
              start.current = event.offsetX
              event.currentTarget.setPointerCapture(event.pointerId)
            }}
            onPointerMove={event => {
              if (start.current === undefined) return
              const ends = [timeAt(start.current), timeAt(event.offsetX)] as const
              setDrag({ from: Math.min(...ends), to: Math.max(...ends) })
            }}
            onPointerUp={event => {
              const from = start.current
              start.current = undefined
              setDrag(undefined)
              if (from === undefined) return
              if (Math.abs(event.offsetX - from) < 5) return pick(timeAt(event.offsetX))
              const ends = [timeAt(from), timeAt(event.offsetX)] as const
              const [first, last] = [Math.min(...ends), Math.max(...ends)]
              setSpan({ from: first, to: Math.max(last, first + SHORTEST) })
            }}
          >
            <Bars line={line} width={width} />
            {line.marks.map(({ time, kind, text, row }, i) => (
              <path
                key={i}
                class={`mark-${kind}`}
                d={`M${x(time) - 4},0 h8 l-4,7 z M${x(time)},0 V${HEIGHT}`}
                onPointerDown={event => event.stopPropagation()}
                onPointerUp={event => {
                  event.stopPropagation()
                  if (row === undefined) pick(time)
                  else props.select(row)
                }}
              >
                <title>{`${kind} at ${seconds(time)} s of guest time: ${text}`}</title>
              </path>
            ))}
            {props.at !== undefined && <line class="cursor" x1={x(props.at)} x2={x(props.at)} y1="0" y2={HEIGHT} />}
            {drag && <rect class="drag" x={x(drag.from)} width={x(drag.to) - x(drag.from)} y="0" height={HEIGHT} />}
          </svg>
        )}
      </div>
    </div>
  )
}

/** Roots, so that a few traps can be seen beside many. */
function Bars({ line: { traps }, width }: { line: Timeline; width: number }) {
  const peak = Math.sqrt(Math.max(1, ...traps))
  const step = width / traps.length
  const path = traps.map((n, i) => {
    const height = n === 0 ? 0 : Math.max(2, (Math.sqrt(n) / peak) * (HEIGHT - 10))
    return `M${(i * step).toFixed(1)},${HEIGHT} v${(-height).toFixed(1)} h${Math.max(1, step - 1).toFixed(1)} V${HEIGHT} z`
  })
  return <path class="bars" d={path.join('')} />
}
