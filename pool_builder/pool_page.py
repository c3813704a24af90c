"""The map of a pool as a page that can be moved, enlarged and searched: one HTML file that needs nothing else."""

import json

import numpy as np

from decodetr.pool_builder.pool_map import layout
from decodetr.utils.files import write_text
from decodetr.utils.markup import html_text

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>@TITLE@</title><style>
body{margin:0;font:14px system-ui,sans-serif;color:#1c2430;overflow:hidden}
header{position:absolute;top:8px;left:12px;right:12px;display:flex;gap:14px;align-items:center;pointer-events:none}
input{pointer-events:auto;font:inherit;padding:4px 8px;width:18em;border:1px solid #9aa7b5;border-radius:6px}
#tip{position:absolute;display:none;max-width:28em;background:#fff;border:1px solid #9aa7b5;border-radius:6px;
padding:6px 9px;pointer-events:none;box-shadow:0 2px 8px #0002;white-space:pre-wrap}
canvas{display:block;cursor:grab}
</style></head><body><canvas id="map"></canvas>
<header><input id="find" placeholder="find in captions" aria-label="find in captions"><span id="said"></span></header>
<div id="tip"></div><script>
const P=@POINTS@;
const canvas=document.getElementById("map"),pen=canvas.getContext("2d"),tip=document.getElementById("tip");
const find=document.getElementById("find"),said=document.getElementById("said");
let scale=1,left=0,top_=0,over=-1,drag=null;
const most=Math.max(...P.count);
const size=i=>(P.level[i]?1.5+3*Math.sqrt(P.count[i]/most):3+14*Math.sqrt(P.count[i]/most))*Math.sqrt(scale);
const at=i=>[left+P.x[i]*scale*unit,top_+P.y[i]*scale*unit];
let unit=1;
function fit(){canvas.width=innerWidth;canvas.height=innerHeight;unit=Math.min(innerWidth,innerHeight)*0.46;
left=innerWidth/2;top_=innerHeight/2+12;scale=1;draw()}
function matches(){const words=find.value.trim().toLowerCase();
return words?P.caption.map(c=>c.toLowerCase().includes(words)):null}
function draw(){pen.clearRect(0,0,canvas.width,canvas.height);const hit=matches();
pen.strokeStyle="#7f9cbb";pen.lineWidth=0.6;pen.beginPath();
for(let i=0;i<P.x.length;i++)if(P.level[i]){pen.moveTo(...at(i));pen.lineTo(...at(P.parent[i]))}pen.stroke();
for(const level of [0,1])for(let i=0;i<P.x.length;i++)if(P.level[i]==level){const [x,y]=at(i);
pen.globalAlpha=hit&&!hit[i]?0.12:0.85;pen.fillStyle=i==over||(hit&&hit[i])?"#d1495b":level?"#2f5d8c":"#e08a4a";
pen.beginPath();pen.arc(x,y,size(i),0,7);pen.fill()}pen.globalAlpha=1;
pen.font="12px system-ui,sans-serif";pen.fillStyle="#1c2430";const taken=[];
for(const i of P.order){if(hit?!hit[i]:P.level[i])continue;const [x,y]=at(i);
if(x<0||y<0||x>canvas.width||y>canvas.height)continue;const text=P.caption[i].slice(0,40);
const box=[x+size(i)+3,y-7,pen.measureText(text).width,14];
if(taken.some(t=>t[0]<box[0]+box[2]&&box[0]<t[0]+t[2]&&t[1]<box[1]+box[3]&&box[1]<t[1]+t[3]))continue;
taken.push(box);pen.lineWidth=3;pen.strokeStyle="#fffc";pen.strokeText(text,box[0],y+4);pen.fillText(text,box[0],y+4)}
said.textContent=hit?hit.filter(Boolean).length+" of "+P.x.length+" prototypes":"@TITLE@"}
function nearest(x,y){let best=-1,least=14;for(let i=0;i<P.x.length;i++){const [a,b]=at(i);
const d=Math.hypot(a-x,b-y)-size(i);if(d<least){least=d;best=i}}return best}
canvas.onmousemove=e=>{if(drag){left=drag[0]+e.clientX;top_=drag[1]+e.clientY;draw();return}
const i=nearest(e.clientX,e.clientY);if(i!=over){over=i;draw()}
tip.style.display=i<0?"none":"block";if(i>=0){tip.style.left=Math.min(e.clientX+14,innerWidth-300)+"px";
tip.style.top=e.clientY+14+"px";
tip.textContent=(P.level[i]?"fine":"coarse")+" prototype "+i+", "+P.count[i]+" regions\\n"+P.caption[i]
+(P.level[i]?"\\nunder: "+P.caption[P.parent[i]]:"")}};
canvas.onmousedown=e=>{drag=[left-e.clientX,top_-e.clientY]};
onmouseup=()=>{drag=null};
canvas.onwheel=e=>{e.preventDefault();const f=Math.exp(-e.deltaY/400);left=e.clientX-(e.clientX-left)*f;
top_=e.clientY-(e.clientY-top_)*f;scale*=f;draw()};
find.oninput=draw;onresize=fit;fit();
</script></body></html>
"""


def write_pool_page(pool, file):
    """Write the page.

    Args:
        pool (PrototypePool). file: .html to write; its folder is made if missing.
    """
    prototypes, level, parent, count = (
        getattr(pool, name).detach().cpu().numpy() for name in ("prototypes", "level", "parent", "count")
    )
    lengths = np.linalg.norm(prototypes, axis=1, keepdims=True)
    places = layout(prototypes / np.maximum(lengths, 1e-12), level, parent)
    places = (places - (places.max(0) + places.min(0)) / 2) / max(np.ptp(places, axis=0).max() / 2, 1e-12)
    points = {
        "x": places[:, 0].round(4).tolist(),
        "y": (-places[:, 1]).round(4).tolist(),  # as on the picture: upwards
        "level": level.tolist(),
        "parent": parent.tolist(),
        "count": count.tolist(),
        "caption": list(pool.captions or [""] * len(pool)),
        "order": np.argsort(-count, kind="stable").tolist(),
    }
    title = f"{int((level == 0).sum())} coarse and {int((level == 1).sum())} fine prototypes"
    # A caption must not be able to end the script.
    data = json.dumps(points, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", " ").replace("\u2029", " ")
    page = _PAGE.replace("@TITLE@", html_text(title)).replace("@POINTS@", data)
    write_text(file, page)
