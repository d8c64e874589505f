// SPDX-License-Identifier: Apache-2.0
/** The recordings that are open in this page, and two of them side by side. */
import { useState } from 'preact/hooks'
import type { Comparison, Decision, Place } from '../../../recorded/compare.ts'
import { count, counted, dateTime } from '../format.ts'
import { go } from '../store.ts'
import { Button, Empty, Panel, Scroll, Skeleton, Tag } from '../ui.tsx'
import { choose, open, recording, recordings } from './open.ts'

/** A file from the disk; it is read in this page, and goes nowhere. */
export function OpenFile() {
  return (
    <label class="button small open-file">
      Open a file
      <input
        type="file"
        class="hidden"
        onChange={e => {
          const [file] = e.currentTarget.files ?? []
          e.currentTarget.value = ''
          if (file !== undefined) void open(file.name, file)
        }}
      />
    </label>
  )
}

export function Opened() {
  const list = recordings.value
  const [found, setFound] = useState<Comparison | undefined>()
  const [pair, setPair] = useState<readonly [number, number] | undefined>()
  const [busy, setBusy] = useState(false)
  const against = async (a: number, b: number) => {
    const [left, right] = [list[a], list[b]]
    if (left === undefined || right === undefined) return
    setBusy(true)
    setFound(undefined)
    setPair([a, b])
    // The page says so before the work begins.
    await new Promise(resolve => setTimeout(resolve, 50))
    const { compare } = await import('./engine.ts')
    setFound(compare(left, right))
    setBusy(false)
  }
  return (
    <div class="view column">
      <Panel title="Open recordings" flush side={<OpenFile />}>
        <table class="data">
          <thead>
            <tr>
              <th>File</th>
              <th>Recorded</th>
              <th>Policy</th>
              <th>Kernel</th>
              <th class="num">Decisions</th>
              <th>Do</th>
            </tr>
          </thead>
          <tbody>
            {list.map((item, i) => (
              <tr key={i} class={item === recording.value ? 'hit' : ''}>
                <td>{item.file.name}</td>
                <td>{dateTime(item.header.created)}</td>
                <td>{item.header.policy}</td>
                <td>{item.header.kernel}</td>
                <td class="num">{count(item.rows)}</td>
                <td>
                  <div class="buttons">
                    <Button
                      class="small"
                      aria-label={`Show ${item.file.name}`}
                      disabled={item === recording.value}
                      onClick={() => choose(i)}
                    >
                      Show
                    </Button>
                    {list.map(
                      (other, j) =>
                        j > i && (
                          <Button
                            key={j}
                            class="small"
                            disabled={busy}
                            onClick={() => void against(i, j)}
                          >{`Compare with ${other.file.name}`}</Button>
                        ),
                    )}
                  </div>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
        {list.length === 1 && (
          <p class="note">Open a second one to see the two side by side, from their first difference on.</p>
        )}
      </Panel>
      <Panel
        title="Side by side"
        flush
        class="grow"
        side={
          found && (
            <Tag tone={found.places.length === 0 ? 'ok' : 'warn'}>
              {found.places.length === 0
                ? 'no difference'
                : `${counted(found.places.length, 'place')}${found.more ? ' and more' : ''}`}
            </Tag>
          )
        }
      >
        {busy ? (
          <Skeleton />
        ) : found === undefined || pair === undefined ? (
          <Empty title="Nothing was compared yet">
            Pages that lie elsewhere in each run count as the same page, as with trace diff.
          </Empty>
        ) : (
          <Scroll label="Side by side" class="pad">
            {found.places.map((place, i) => (
              <PlaceView key={i} place={place} first={i === 0} pair={pair} />
            ))}
          </Scroll>
        )}
      </Panel>
    </div>
  )
}

function PlaceView({ place, first, pair }: { place: Place; first: boolean; pair: readonly [number, number] }) {
  const { before, sides, left } = place
  return (
    <section class="place">
      <h3>{first ? 'First difference' : 'Another difference'}</h3>
      <p class="mono muted">both: {before ?? 'the start'}</p>
      <div class="sides">
        {([0, 1] as const).map(side => (
          <ol key={side} class={`side-${side}`} aria-label={recordings.value[pair[side]]?.file.name}>
            {sides[side].length === 0 && <li class="muted">nothing</li>}
            {sides[side].map((decision, i) => (
              <DecisionView key={i} of={decision} index={pair[side]} />
            ))}
            {left[side] > 0 && <li class="muted">and {count(left[side])} more</li>}
          </ol>
        ))}
      </div>
    </section>
  )
}

function DecisionView({ of: { trap, text, lines }, index }: { of: Decision; index: number }) {
  return (
    <li>
      {trap === undefined ? (
        <span class="mono">{text}</span>
      ) : (
        <button
          type="button"
          class="as-link mono"
          onClick={() => {
            choose(index, trap)
            go('traps')
          }}
        >
          {text}
        </button>
      )}
      {lines.map((line, i) => (
        <div key={i} class="mono muted">
          {line}
        </div>
      ))}
    </li>
  )
}
