// SPDX-License-Identifier: Apache-2.0
import { useState } from 'preact/hooks'
import type { TableRoot } from '../../../api/schemas/smmus.ts'
import { call } from '../api.ts'
import { bytes, hex } from '../format.ts'
import { useLoaded } from '../hooks.ts'
import { go, inspectable, route, smmu } from '../store.ts'
import { Button, Empty, Load, Panel, Scroll, Tag, type Tone } from '../ui.tsx'
import { EntryPair } from './entries.tsx'
import { NoMachine } from './none.tsx'

export const CONFIG_TONES: Readonly<Record<string, Tone>> = {
  s1: 'host',
  s2: 'hyp',
  nested: 'hyp',
  bypass: 'warn',
  abort: 'bad',
}

export function Streams() {
  return inspectable.value ? <StreamTables /> : <NoMachine what="Stream tables" />
}

function StreamTables() {
  const [all, setAll] = useState(false)
  const asked = route.value.query.get('sid')
  const loaded = useLoaded(() => call('GET /smmus/:smmu/streams', { params: { smmu: smmu.value } }), 3_000, [
    smmu.value,
  ])
  const known = loaded.data?.streams ?? []
  const shown = known.filter(s => all || s.device !== null || !/^(abort|invalid|none)$/.test(s.host))
  const sid = asked === null ? shown.find(s => s.device !== null)?.sid : Number(asked)
  return (
    <div class="view split streams-view">
      <Panel
        title="Streams"
        flush
        class="stream-list"
        side={
          <label class="check">
            <input type="checkbox" checked={all} onChange={e => setAll(e.currentTarget.checked)} />
            all {known.length}
          </label>
        }
      >
        <Load from={loaded}>
          {({ table, shadowTable }) => (
            <>
              <p class="note">
                {table
                  ? `Host table ${table.base}, ${table.twoLevel ? '2-level' : 'linear'}, 2^${table.log2size} StreamIDs.`
                  : 'The host has set up no stream table yet.'}
                {shadowTable && <span class="hyp-text"> Shadow at {shadowTable.base}.</span>}
              </p>
              {shown.length === 0 ? (
                <Empty title="No stream is set up yet" />
              ) : (
                <ul class="tree" aria-label="Streams">
                  {shown.map(s => (
                    <li key={s.sid}>
                      <button
                        type="button"
                        class={s.sid === sid ? 'selected' : ''}
                        aria-current={s.sid === sid}
                        onClick={() => go('streams', { sid: s.sid })}
                      >
                        <code>{hex(s.sid)}</code>
                        <span class="name">
                          {s.device?.name ?? <span class="muted">no device</span>}
                          {s.device && <small>{s.device.model}</small>}
                        </span>
                        <Tag tone={CONFIG_TONES[s.host] ?? 'plain'}>{s.host}</Tag>
                        {s.shadow !== null && (
                          <>
                            <span class="muted">→</span>
                            <Tag tone={CONFIG_TONES[s.shadow] ?? 'plain'}>{s.shadow}</Tag>
                          </>
                        )}
                      </button>
                    </li>
                  ))}
                </ul>
              )}
            </>
          )}
        </Load>
      </Panel>
      {sid === undefined ? (
        <Panel title="Stream">
          <Empty title="Choose a stream" />
        </Panel>
      ) : (
        <Detail key={sid} sid={sid} />
      )}
    </div>
  )
}

function Detail({ sid }: { sid: number }) {
  const loaded = useLoaded(() => call('GET /smmus/:smmu/streams/:sid', { params: { smmu: smmu.value, sid } }), 3_000, [
    sid,
    smmu.value,
  ])
  const [different, setDifferent] = useState(false)
  return (
    <div class="stack">
      <Panel
        title={`StreamID ${hex(sid)}${loaded.data?.device ? `, ${loaded.data.device.name}` : ''}`}
        flush
        side={
          <>
            <label class="check">
              <input type="checkbox" checked={different} onChange={e => setDifferent(e.currentTarget.checked)} />
              only differing fields
            </label>
            <Button local class="small" onClick={() => go('translation', { sid })}>
              Walk an address
            </Button>
          </>
        }
      >
        <Load from={loaded}>
          {stream =>
            stream.host === null && stream.shadow === null ? (
              <Empty title="No entry">The stream table has none for this StreamID; its transactions are aborted.</Empty>
            ) : (
              <>
                <p class="note mono">
                  {stream.host && (
                    <>
                      <span class="host-text">host {stream.host.address}</span> {stream.host.text}
                      <br />
                    </>
                  )}
                  {stream.shadow && (
                    <>
                      <span class="hyp-text">shadow {stream.shadow.address}</span> {stream.shadow.text}
                    </>
                  )}
                </p>
                {stream.legal === false && <p class="note bad-text">The hardware refuses this entry: C_BAD_STE.</p>}
                <EntryPair host={stream.host} shadow={stream.shadow} onlyDifferent={different && stream.shadowed} />
              </>
            )
          }
        </Load>
      </Panel>
      {loaded.data?.cd && (
        <Panel title={`Context descriptor at ${loaded.data.cd.address}`} flush>
          <p class="note mono">{loaded.data.cd.text}</p>
        </Panel>
      )}
      {loaded.data && loaded.data.roots.length > 0 && <Tables roots={loaded.data.roots} sid={sid} />}
    </div>
  )
}

/** A table on the way down; only a root says how many bits it resolves. */
type Place = Omit<TableRoot, 'inputBits'> & Partial<Pick<TableRoot, 'inputBits'>>

/** Translation tables, level by level. */
function Tables({ roots, sid }: { roots: readonly TableRoot[]; sid: number }) {
  const [path, setPath] = useState<readonly Place[]>(() => (roots[0] ? [roots[0]] : []))
  const place = path.at(-1)
  const loaded = useLoaded(
    async () => {
      if (place === undefined) return { readable: true, entries: [] }
      const { name: _, ...query } = place
      return call('GET /smmus/:smmu/table', { params: { smmu: smmu.value }, query })
    },
    0,
    [place?.address, place?.level],
  )
  return (
    <Panel
      title="Translation tables"
      flush
      side={
        <span class="legend">
          {roots.map(root => (
            <Button
              local
              key={root.name}
              class="small"
              aria-pressed={path[0]?.name === root.name}
              onClick={() => setPath([root])}
            >
              stage {root.stage} {root.name}
            </Button>
          ))}
        </span>
      }
    >
      <nav class="crumbs" aria-label="Table levels">
        {path.map((p, i) => (
          <button type="button" key={i} onClick={() => setPath(path.slice(0, i + 1))} disabled={i === path.length - 1}>
            L{p.level} <code>{p.address}</code>
          </button>
        ))}
      </nav>
      <Load from={loaded}>
        {({ readable, entries }) =>
          !readable ? (
            <Empty title="Not in RAM">The table cannot be read; the hardware would report a walk abort.</Empty>
          ) : entries.length === 0 ? (
            <Empty title="No valid entry" />
          ) : (
            <Scroll label="Tables" class="tables">
              <table class="data">
                <thead>
                  <tr>
                    <th class="num">Index</th>
                    <th>Input address</th>
                    <th>Type</th>
                    <th>Output</th>
                    <th>Size</th>
                    <th>Access</th>
                    <th>Descriptor</th>
                  </tr>
                </thead>
                <tbody>
                  {entries.slice(0, 2_000).map(e => (
                    <tr key={e.index}>
                      <td class="num muted">{e.index}</td>
                      <td class="mono">
                        {e.type === 'table' ? (
                          e.input
                        ) : (
                          <a href={`#/translation?sid=${sid}&iova=${e.input}`}>{e.input}</a>
                        )}
                      </td>
                      <td>
                        <Tag tone={e.type === 'table' ? 'plain' : place?.stage === 2 ? 'hyp' : 'host'}>{e.type}</Tag>
                      </td>
                      <td class="mono">
                        {e.type === 'table' && place ? (
                          <button
                            type="button"
                            class="as-link"
                            onClick={() =>
                              setPath([
                                ...path,
                                {
                                  stage: place.stage,
                                  name: place.name,
                                  address: e.address,
                                  level: place.level + 1,
                                  granuleShift: place.granuleShift,
                                  input: e.input,
                                },
                              ])
                            }
                          >
                            {e.address} ↘
                          </button>
                        ) : (
                          e.address
                        )}
                      </td>
                      <td>{bytes(e.size)}</td>
                      <td>
                        {e.permissions}
                        {!e.accessed && ' AF=0'}
                      </td>
                      <td class="mono muted">{e.value}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </Scroll>
          )
        }
      </Load>
    </Panel>
  )
}
