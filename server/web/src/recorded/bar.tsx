// SPDX-License-Identifier: Apache-2.0
/** The recording that is shown, and at which of its moments. */
import { useEffect, useRef, useState } from 'preact/hooks'
import { count, counted, seconds, wallClock } from '../format.ts'
import { shortcut } from '../shortcuts.ts'
import { clockMode } from '../store.ts'
import { Button, Tag } from '../ui.tsx'
import { alone, close, moment, reading, recording, refused, seek } from './open.ts'

/** A slider tells of more moments than can be shown, ms. */
const PAINT_MS = 40

export function RecordedBar() {
  const now = recording.value
  const row = moment.value
  /** Where the slider is while it is dragged. */
  const [dragged, setDragged] = useState<number | undefined>()
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined)
  useEffect(() => {
    const ends = [
      shortcut(',', 'A recording: the decision before', () => seek(moment.peek() - 1)),
      shortcut('.', 'A recording: the next decision', () => seek(moment.peek() + 1)),
    ]
    return () => {
      for (const end of ends) end()
    }
  }, [])
  if (now === undefined) return null
  const drag = (to: number) => {
    setDragged(to)
    clearTimeout(timer.current)
    timer.current = setTimeout(() => {
      seek(to)
      setDragged(undefined)
    }, PAINT_MS)
  }
  const { trap, time, at } = now.moment
  const when = clockMode.value === 'guest' ? `${seconds(time)} s` : wallClock(at)
  const words = trap === 0 ? 'before the first trap' : `after trap ${count(trap)}, ${when}`
  return (
    <section class="recorded-bar" aria-label="Recording">
      <Tag tone="hyp">recording</Tag>
      <b class="recorded-name" title={now.file.name}>
        {now.file.name}
      </b>
      <Button
        class="small"
        keys=","
        aria-label="The decision before"
        disabled={row === 0}
        onClick={() => seek(row - 1)}
      >
        ‹
      </Button>
      <input
        type="range"
        aria-label="Moment"
        aria-valuetext={words}
        min="0"
        max={now.rows}
        value={dragged ?? row}
        onInput={e => drag(Number(e.currentTarget.value))}
      />
      <Button
        class="small"
        keys="."
        aria-label="The next decision"
        disabled={row === now.rows}
        onClick={() => seek(row + 1)}
      >
        ›
      </Button>
      <span class="mono" role="status">
        {words}
      </span>
      {now.problems.length > 0 && (
        <details class="recorded-notes">
          <summary>{counted(now.problems.length, 'note')}</summary>
          <ul>
            {now.problems.map(problem => (
              <li key={problem}>{problem}</li>
            ))}
          </ul>
        </details>
      )}
      {!alone && (
        <Button class="small" onClick={close}>
          Close
        </Button>
      )}
    </section>
  )
}

/** What is being opened, or was not. */
export function Opening() {
  const { name, rows } = reading.value ?? {}
  if (name !== undefined) {
    return (
      <div class="lost opening" role="status">
        Reading {name}: {counted(rows ?? 0, 'decision')} so far
      </div>
    )
  }
  if (refused.value === undefined) return null
  return (
    <div class="lost" role="alert">
      {refused.value}{' '}
      <Button
        local
        class="small"
        onClick={() => {
          refused.value = undefined
        }}
      >
        Dismiss
      </Button>
    </div>
  )
}
